# One consumes, the others stand by and take over within 4 s. It owns the schema of the database: the first of a new
# version brings it up to date, under a lock.

variable "namespace" {
  type = string
}

variable "datacenters" {
  type = list(string)
}

variable "image_prefix" {
  type = string
}

variable "release" {
  type = string
}

variable "nats_ca_hash" {
  type = string
}

variable "recorder_count" {
  type = number
}

variable "recorder_cpu" {
  type = number
}

variable "recorder_memory" {
  type = number
}

variable "recordings_url" {
  type        = string
  description = "Bucket of sealed recordings: s3://…, gs://… or az://…; empty: the folder. Its credentials are in the variables of the groups."
}

variable "recording_keys" {
  type        = string
  description = "Keys of recordings, by reference: acme.1=env:ACME_KEY_1. The keys are in the variables of the groups, under these names."
}

variable "webhook_keys" {
  type        = string
  description = "Keys of webhooks' secrets, by reference: acme.1=env:ACME_KEY_1. The keys are in the variables of the groups."
}

variable "webhook_allow" {
  type        = string
  description = "Hosts and networks that webhooks may go to though their addresses aren't public."
}

variable "recording_format" {
  type        = string
  description = "wav, flac or opus, where the agent has no other."
}

variable "recording_layout" {
  type        = string
  description = "stereo, mixed or tracks, where the agent has no other."
}

variable "recording_keys_required" {
  type        = string
  description = "true: recordings of a tenant without a key wait for one; false: they aren't encrypted."
}

variable "post_call_steps" {
  type        = string
  description = "Steps after each call: summary, or names of plug-ins in the image."
}

variable "post_call_offered" {
  type        = string
  description = "Further steps, for those of which a tenant or agent has chosen them."
}

variable "summary_url" {
  type        = string
  description = "API like OpenAI's that writes summaries; its key is GREENROOM_SUMMARY_KEY in the variable of the group."
}

variable "summary_model" {
  type        = string
  description = "Model that writes summaries; has to be set for the step summary."
}

variable "retention_at" {
  type        = string
  description = "When the daily run of retention is due."
}

variable "retention_zone" {
  type        = string
  description = "On whose clocks: a name of the time-zone database."
}

job "recorder" {
  namespace   = var.namespace
  datacenters = var.datacenters
  type        = "service"
  priority    = 65

  update {
    max_parallel      = 1
    canary            = 1
    auto_promote      = true
    auto_revert       = true
    health_check      = "checks"
    min_healthy_time  = "10s"
    healthy_deadline  = "5m"
    progress_deadline = "15m"
  }

  migrate {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "10s"
    healthy_deadline = "5m"
  }

  group "recorder" {
    count          = var.recorder_count
    shutdown_delay = "1s"

    spread {
      attribute = "${node.unique.id}"
    }

    restart {
      attempts = 5
      interval = "5m"
      delay    = "5s"
      mode     = "delay"
    }

    network {
      port "health" {
        to = 8081
      }
    }

    # The same files on every node that runs a recorder or an api: agent/client.hcl.
    volume "recordings" {
      type   = "host"
      source = "recordings"
    }

    service {
      name     = "recorder-health"
      provider = "nomad"
      port     = "health"

      check {
        name     = "ready"
        type     = "http"
        path     = "/readyz"
        interval = "5s"
        timeout  = "2s"
      }

      check {
        name     = "alive"
        type     = "http"
        path     = "/livez"
        interval = "10s"
        timeout  = "2s"

        check_restart {
          limit = 3
          grace = "60s"
        }
      }
    }

    task "migrate" {
      driver       = "docker"
      kill_timeout = "30s"

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      config {
        image           = "${var.image_prefix}greenroom-recorder:${var.release}"
        entrypoint      = ["greenroom-migrate"]
        readonly_rootfs = true
        cap_drop        = ["ALL"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 64
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/service.env"
        env         = true
        change_mode = "noop"
        data        = "DATABASE_URL={{ with nomadVar \"nomad/jobs/recorder\" }}{{ .database_url }}{{ end }}"
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }

    task "recorder" {
      driver       = "docker"
      kill_signal  = "SIGTERM"
      kill_timeout = "2m"

      config {
        image           = "${var.image_prefix}greenroom-recorder:${var.release}"
        ports           = ["health"]
        init            = true
        readonly_rootfs = true
        cap_drop        = ["ALL"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 128

        mount {
          type   = "tmpfs"
          target = "/tmp"
          tmpfs_options {
            size = 67108864
          }
        }
      }

      volume_mount {
        volume      = "recordings"
        destination = "/recordings"
      }

      env {
        GREENROOM_INSTANCE_ID             = "${NOMAD_ALLOC_ID}"
        GREENROOM_LOG_FORMAT              = "json"
        GREENROOM_HEALTH_HOST             = "0.0.0.0"
        GREENROOM_HEALTH_PORT             = "8081"
        GREENROOM_DRAIN_TIMEOUT_S         = "60"
        GREENROOM_RECORDINGS_DIR          = "/recordings"
        GREENROOM_RECORDINGS_URL          = var.recordings_url
        GREENROOM_RECORDING_KEYS          = var.recording_keys
        GREENROOM_WEBHOOK_KEYS            = var.webhook_keys
        GREENROOM_WEBHOOK_ALLOW           = var.webhook_allow
        GREENROOM_RECORDING_FORMAT        = var.recording_format
        GREENROOM_RECORDING_LAYOUT        = var.recording_layout
        GREENROOM_RECORDING_KEYS_REQUIRED = var.recording_keys_required
        GREENROOM_POST_CALL_STEPS         = var.post_call_steps
        GREENROOM_POST_CALL_OFFERED       = var.post_call_offered
        GREENROOM_SUMMARY_URL             = var.summary_url
        GREENROOM_SUMMARY_MODEL           = var.summary_model
        GREENROOM_RETENTION_AT            = var.retention_at
        GREENROOM_RETENTION_ZONE          = var.retention_zone
        SSL_CERT_FILE                     = "/etc/ssl/certs/ca-certificates.crt"
        SSL_CERT_DIR                      = "${NOMAD_SECRETS_DIR}/ca"
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/service.env"
        env         = true
        change_mode = "noop"
        data        = <<-EOT
        {{ with $secret := nomadVar "nomad/jobs/recorder" -}}
        DATABASE_URL={{ $secret.database_url }}
        NATS_URL={{ range $i, $nats := nomadService "nats" }}{{ if $i }},{{ end }}tls://recorder:{{ $secret.nats_password }}@{{ $nats.Address }}:{{ $nats.Port }}{{ end }}
        {{- end }}
        OTEL_EXPORTER_OTLP_ENDPOINT={{ with nomadService "otlp" }}{{ with index . 0 }}http://{{ .Address }}:{{ .Port }}{{ end }}{{ end }}
        EOT
      }

      # Credentials of a bucket, keys, and settings that have no variable here, under their own names; the variable of the group, so that
      # what an installation doesn't use isn't there.
      template {
        destination = "${NOMAD_SECRETS_DIR}/options.env"
        env         = true
        change_mode = "noop"
        data        = <<-EOT
        {{ if nomadVarExists "nomad/jobs/recorder/recorder" }}{{ range $key, $value := nomadVar "nomad/jobs/recorder/recorder" }}
        {{ $key }}={{ $value }}
        {{ end }}{{ end }}
        EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/ca/${var.nats_ca_hash}.0"
        change_mode = "noop"
        data        = "{{ with nomadVar \"nomad/jobs\" }}{{ .nats_ca }}{{ end }}"
      }

      resources {
        cpu    = var.recorder_cpu
        memory = var.recorder_memory
      }
    }
  }
}
