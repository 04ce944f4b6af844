# A runner for one session, dispatched by the scheduler when no warm slot is free. It claims its session by the epoch of
# the lease, runs it, and exits; one that comes too late finds a later epoch, and exits as well. So one that Nomad
# starts twice (a lost node, a retried dispatch) is harmless.

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

variable "pool" {
  type = string
}

variable "runner_labels" {
  type = string
}

variable "runner_bots" {
  type = string
}

variable "bot_version" {
  type = string
}

variable "cold_cpu" {
  type = number
}

variable "cold_memory" {
  type = number
}

variable "cold_memory_max" {
  type = number
}

variable "cold_max_run_duration" {
  type = string
}

variable "call_drain_timeout_s" {
  type = number
}

variable "call_kill_timeout" {
  type = string
}

job "runner-cold" {
  namespace   = var.namespace
  datacenters = var.datacenters
  type        = "batch"
  # Of the template; a dispatch says its own.
  priority = 50

  # Since then max_run_duration is understood.
  constraint {
    attribute = "${attr.nomad.version}"
    operator  = "semver"
    value     = ">= 2.0.3"
  }

  parameterized {
    payload       = "forbidden"
    meta_required = ["tenant", "session_id", "lease_id", "epoch"]
  }

  group "runner" {
    count = 1
    # From the allocation's start: the longest call, and the way there. The runner has ended the call long before.
    max_run_duration = var.cold_max_run_duration
    shutdown_delay   = "1s"

    # What fails is for the scheduler to try again, elsewhere, under another epoch.
    restart {
      attempts = 0
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    # A client that has lost its servers goes on with its call, and nobody else begins it.
    disconnect {
      lost_after = "3h"
      replace    = false
    }

    network {
      port "health" {
        to = 8081
      }
    }

    service {
      name     = "runner-cold-health"
      provider = "nomad"
      port     = "health"
    }

    task "runner" {
      driver       = "docker"
      kill_signal  = "SIGTERM"
      kill_timeout = var.call_kill_timeout

      config {
        image           = "${var.image_prefix}greenroom-runner:${var.release}"
        ports           = ["health"]
        init            = true
        readonly_rootfs = true
        cap_drop        = ["ALL"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 512

        mount {
          type   = "tmpfs"
          target = "/tmp"
          tmpfs_options {
            size = 67108864
          }
        }
      }

      env {
        GREENROOM_CLAIM           = "${NOMAD_META_tenant}/${NOMAD_META_session_id}/${NOMAD_META_epoch}"
        GREENROOM_INSTANCE        = "${NOMAD_ALLOC_ID}"
        GREENROOM_LOG_FORMAT      = "json"
        GREENROOM_HEALTH_HOST     = "0.0.0.0"
        GREENROOM_HEALTH_PORT     = "8081"
        GREENROOM_DRAIN_TIMEOUT_S = var.call_drain_timeout_s
        GREENROOM_POOL            = var.pool
        GREENROOM_LABELS          = var.runner_labels
        GREENROOM_BOTS            = var.runner_bots
        GREENROOM_BOT_VERSION     = var.bot_version
        SSL_CERT_FILE             = "/etc/ssl/certs/ca-certificates.crt"
        SSL_CERT_DIR              = "${NOMAD_SECRETS_DIR}/ca"
        GREENROOM_SECRETS_DIR     = "${NOMAD_SECRETS_DIR}/bots"
        GREENROOM_HIDDEN          = "${NOMAD_SECRETS_DIR}/service.env"
      }

      # The secrets of the warm runners: policies/runner-cold.hcl lets it read them.
      template {
        destination = "${NOMAD_SECRETS_DIR}/service.env"
        env         = true
        change_mode = "noop"
        data        = <<-EOT
        {{ with $secret := nomadVar "nomad/jobs/runner" -}}
        NATS_URL={{ range $i, $nats := nomadService "nats" }}{{ if $i }},{{ end }}tls://runner:{{ $secret.nats_password }}@{{ $nats.Address }}:{{ $nats.Port }}{{ end }}
        {{- end }}
        OTEL_EXPORTER_OTLP_ENDPOINT={{ with nomadService "otlp" }}{{ with index . 0 }}http://{{ .Address }}:{{ .Port }}{{ end }}{{ end }}
        EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/bots/secrets.env"
        change_mode = "noop"
        data        = <<-EOT
        {{ if nomadVarExists "nomad/jobs/runner/runner" }}{{ range $key, $value := nomadVar "nomad/jobs/runner/runner" }}
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
        cpu        = var.cold_cpu
        memory     = var.cold_memory
        memory_max = var.cold_memory_max
      }
    }
  }
}
