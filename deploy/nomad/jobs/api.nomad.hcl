# REST, event streams and the media edge. Live calls go through it, and an allocation is replaced only after the one
# before it has ended. So a new version comes up whole beside the old one (canary = count), and the old one goes on
# until its last call has ended.

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

variable "public_url" {
  type = string
}

variable "allowed_origins" {
  type = string
}

variable "api_count" {
  type = number
}

variable "api_tags" {
  type = list(string)
}

variable "api_cpu" {
  type = number
}

variable "api_memory" {
  type = number
}

variable "call_drain_timeout_s" {
  type = number
}

variable "call_kill_timeout" {
  type = string
}

variable "call_progress_deadline" {
  type = string
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

variable "ice_servers" {
  type        = string
  description = "STUN servers that browsers ask for their own address: stun:stun.example.org:3478."
}

variable "turn_urls" {
  type        = string
  description = "TURN servers that browsers may be relayed by; GREENROOM_TURN_SECRET is in the variable of the group."
}

job "api" {
  namespace   = var.namespace
  datacenters = var.datacenters
  type        = "service"
  priority    = 70

  update {
    max_parallel      = var.api_count
    canary            = var.api_count
    auto_promote      = true
    auto_revert       = true
    health_check      = "checks"
    min_healthy_time  = "10s"
    healthy_deadline  = "3m"
    progress_deadline = var.call_progress_deadline
  }

  migrate {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "10s"
    healthy_deadline = "3m"
  }

  group "api" {
    count = var.api_count
    # Load balancers take that long to notice that it is gone from the list.
    shutdown_delay = "10s"

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
      port "http" {
        to = 8080
      }
      port "health" {
        to = 8081
      }
    }

    volume "recordings" {
      type      = "host"
      source    = "recordings"
      read_only = true
    }

    service {
      name     = "api"
      provider = "nomad"
      port     = "http"
      tags     = var.api_tags

      check {
        name     = "ready"
        type     = "http"
        port     = "health"
        path     = "/readyz"
        interval = "5s"
        timeout  = "2s"
      }
    }

    service {
      name     = "api-health"
      provider = "nomad"
      port     = "health"

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

    task "api" {
      driver       = "docker"
      kill_signal  = "SIGTERM"
      kill_timeout = var.call_kill_timeout

      config {
        image           = "${var.image_prefix}greenroom-api:${var.release}"
        ports           = ["http", "health"]
        init            = true
        readonly_rootfs = true
        cap_drop        = ["ALL"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 256

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
        read_only   = true
      }

      env {
        GREENROOM_INSTANCE_ID     = "${NOMAD_ALLOC_ID}"
        GREENROOM_LOG_FORMAT      = "json"
        GREENROOM_HEALTH_HOST     = "0.0.0.0"
        GREENROOM_HEALTH_PORT     = "8081"
        GREENROOM_DRAIN_TIMEOUT_S = var.call_drain_timeout_s
        GREENROOM_API_HOST        = "0.0.0.0"
        GREENROOM_API_PORT        = "8080"
        GREENROOM_PUBLIC_URL      = var.public_url
        GREENROOM_ALLOWED_ORIGINS = var.allowed_origins
        GREENROOM_RECORDINGS_DIR  = "/recordings"
        GREENROOM_RECORDINGS_URL  = var.recordings_url
        GREENROOM_RECORDING_KEYS  = var.recording_keys
        GREENROOM_WEBHOOK_KEYS    = var.webhook_keys
        GREENROOM_WEBHOOK_ALLOW   = var.webhook_allow
        GREENROOM_ICE_SERVERS     = var.ice_servers
        GREENROOM_TURN_URLS       = var.turn_urls
        SSL_CERT_FILE             = "/etc/ssl/certs/ca-certificates.crt"
        SSL_CERT_DIR              = "${NOMAD_SECRETS_DIR}/ca"
      }

      # Read once, at the start: a NATS server that comes or goes must not restart anything, clients learn of it from
      # the others.
      template {
        destination = "${NOMAD_SECRETS_DIR}/service.env"
        env         = true
        change_mode = "noop"
        data        = <<-EOT
        {{ with $secret := nomadVar "nomad/jobs/api" -}}
        DATABASE_URL={{ $secret.database_url }}
        NATS_URL={{ range $i, $nats := nomadService "nats" }}{{ if $i }},{{ end }}tls://api:{{ $secret.nats_password }}@{{ $nats.Address }}:{{ $nats.Port }}{{ end }}
        {{- end }}
        OTEL_EXPORTER_OTLP_ENDPOINT={{ with nomadService "otlp" }}{{ with index . 0 }}http://{{ .Address }}:{{ .Port }}{{ end }}{{ end }}
        EOT
      }

      # Of transports: GREENROOM_DAILY_API_KEY, LIVEKIT_URL and the like; keys; and settings that have no variable here,
      # under their own names; the variable of the group, so that what an installation doesn't use isn't there.
      template {
        destination = "${NOMAD_SECRETS_DIR}/transports.env"
        env         = true
        change_mode = "noop"
        data        = <<-EOT
        {{ if nomadVarExists "nomad/jobs/api/api" }}{{ range $key, $value := nomadVar "nomad/jobs/api/api" }}
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
        cpu    = var.api_cpu
        memory = var.api_memory
      }
    }
  }
}
