# The warm runners of one pool. A new version comes up whole beside the old one (canary = count); an old runner takes no
# new sessions from SIGTERM on, and ends when its last call has, or after call_drain_timeout_s.
#
# More pools: copies of this file and of runner-cold.nomad.hcl (`job "runner-gpu"`, `job "runner-cold-gpu"`), their own
# numbers, and in the job of the scheduler GREENROOM_NOMAD_RUNNER_JOB = "runner-{pool}", likewise for the cold one.

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

variable "runner_count" {
  type = number
}

variable "runner_count_max" {
  type = number
}

# A number, or "auto".
variable "runner_slots" {
  type = string
}

# Percent, see docs/adr/0023-pressure-brakes-at-its-end.md; 0: not looked at.
variable "runner_brake_cpu_pressure" {
  type = number
}

# What the node's network carries, Mbit/s; 0: what its interfaces say. Those of a container say what isn't so.
variable "runner_network_mbit" {
  type = number
}

variable "runner_standby" {
  type = number
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

variable "runner_cpu" {
  type = number
}

variable "runner_memory" {
  type = number
}

variable "runner_memory_max" {
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

job "runner" {
  namespace   = var.namespace
  datacenters = var.datacenters
  type        = "service"
  priority    = 75

  update {
    max_parallel      = var.runner_count
    canary            = var.runner_count
    auto_promote      = true
    auto_revert       = true
    health_check      = "checks"
    min_healthy_time  = "10s"
    healthy_deadline  = "5m"
    progress_deadline = var.call_progress_deadline
  }

  # All runners of a drained node drain at the same time: one by one, each would wait for the last call of the one
  # before.
  migrate {
    max_parallel     = var.runner_count
    health_check     = "checks"
    min_healthy_time = "10s"
    healthy_deadline = "5m"
  }

  group "runner" {
    count          = var.runner_count
    shutdown_delay = "2s"

    # The scheduler sets the count, within these bounds; Nomad's own autoscaler stays out of it.
    scaling {
      enabled = false
      min     = 1
      max     = var.runner_count_max
    }

    spread {
      attribute = "${node.unique.id}"
    }

    # A client that has lost its servers goes on with its calls. Others take over meanwhile, and are the ones to go when
    # it is back: they drain like any other.
    disconnect {
      lost_after = "3h"
      replace    = true
      reconcile  = "keep_original"
    }

    restart {
      attempts = 3
      interval = "10m"
      delay    = "10s"
      mode     = "fail"
    }

    network {
      port "health" {
        to = 8081
      }
    }

    service {
      name     = "runner-health"
      provider = "nomad"
      port     = "health"

      check {
        name     = "ready"
        type     = "http"
        path     = "/readyz"
        interval = "5s"
        timeout  = "2s"
      }
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
        # Each session is a process with some twenty threads.
        pids_limit = 4096

        mount {
          type   = "tmpfs"
          target = "/tmp"
          tmpfs_options {
            size = 268435456
          }
        }
      }

      env {
        GREENROOM_INSTANCE        = "${NOMAD_ALLOC_ID}"
        GREENROOM_ORDINAL         = "${NOMAD_ALLOC_INDEX}"
        GREENROOM_LOG_FORMAT      = "json"
        GREENROOM_HEALTH_HOST     = "0.0.0.0"
        GREENROOM_HEALTH_PORT     = "8081"
        GREENROOM_DRAIN_TIMEOUT_S = var.call_drain_timeout_s
        GREENROOM_POOL            = var.pool
        GREENROOM_SLOTS           = var.runner_slots
        GREENROOM_STANDBY         = var.runner_standby
        GREENROOM_LABELS          = var.runner_labels
        GREENROOM_BOTS            = var.runner_bots
        GREENROOM_BOT_VERSION     = var.bot_version
        SSL_CERT_FILE             = "/etc/ssl/certs/ca-certificates.crt"
        SSL_CERT_DIR              = "${NOMAD_SECRETS_DIR}/ca"
        GREENROOM_SECRETS_DIR     = "${NOMAD_SECRETS_DIR}/bots"
        GREENROOM_HIDDEN          = "${NOMAD_SECRETS_DIR}/service.env,${NOMAD_ALLOC_DIR}/data/reports"
        # Stays when the task is restarted: a runner that was killed while NATS was away has still to tell of its calls.
        GREENROOM_REPORTS_DIR = "${NOMAD_ALLOC_DIR}/data/reports"
        # The processors are more than full then.
        GREENROOM_BRAKE_CPU_PRESSURE_PERCENT = var.runner_brake_cpu_pressure
        GREENROOM_NETWORK_MBIT               = var.runner_network_mbit
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/service.env"
        env         = true
        change_mode = "noop"
        data        = <<-EOT
        {{ with $secret := nomadVar "nomad/jobs/runner" -}}
        NATS_URL={{ range $i, $nats := nomadService "nats" }}{{ if $i }},{{ end }}tls://runner:{{ $secret.nats_password }}@{{ $nats.Address }}:{{ $nats.Port }}{{ end }}
        GREENROOM_NATS_ISSUER_SEED={{ $secret.nats_issuer_seed }}
        {{- end }}
        OTEL_EXPORTER_OTLP_ENDPOINT={{ with nomadService "otlp" }}{{ with index . 0 }}http://{{ .Address }}:{{ .Port }}{{ end }}{{ end }}
        EOT
      }

      # What the bots need: OPENAI_API_KEY and the like, under their own names; the variable of the group, so that it is
      # apart from the runner's own. A change of it reaches the sessions that begin a second later; nothing restarts.
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

      # Shares, without a hard limit: what a neighbour leaves idle may be used for a moment.
      resources {
        cpu        = var.runner_cpu
        memory     = var.runner_memory
        memory_max = var.runner_memory_max
      }
    }
  }
}
