# Several run, one leads; another one takes over within 4 s. It launches runners through the task API of its own Nomad
# agent, as itself (workload identity): policies/scheduler.hcl says what it may do.

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

variable "scheduler_count" {
  type = number
}

variable "scheduler_cpu" {
  type = number
}

variable "scheduler_memory" {
  type = number
}

job "scheduler" {
  namespace   = var.namespace
  datacenters = var.datacenters
  type        = "service"
  # Calls go on without it, but none begins.
  priority = 80

  update {
    max_parallel      = 1
    canary            = 1
    auto_promote      = true
    auto_revert       = true
    health_check      = "checks"
    min_healthy_time  = "10s"
    healthy_deadline  = "3m"
    progress_deadline = "10m"
  }

  migrate {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "10s"
    healthy_deadline = "3m"
  }

  group "scheduler" {
    count = var.scheduler_count
    # Nobody finds it by its registration: it is only on its way out of Prometheus' list.
    shutdown_delay = "1s"

    spread {
      attribute = "${node.unique.id}"
    }

    restart {
      attempts = 5
      interval = "5m"
      delay    = "2s"
      mode     = "delay"
    }

    network {
      port "health" {
        to = 8081
      }
    }

    service {
      name     = "scheduler-health"
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

    task "scheduler" {
      driver       = "docker"
      kill_signal  = "SIGTERM"
      kill_timeout = "20s"

      # The default identity: valid for as long as the allocation runs, so nothing has to be renewed.
      identity {
        file = true
      }

      config {
        image           = "${var.image_prefix}greenroom-scheduler:${var.release}"
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

      env {
        GREENROOM_INSTANCE_ID      = "${NOMAD_ALLOC_ID}"
        GREENROOM_LOG_FORMAT       = "json"
        GREENROOM_HEALTH_HOST      = "0.0.0.0"
        GREENROOM_HEALTH_PORT      = "8081"
        GREENROOM_DRAIN_TIMEOUT_S  = "10"
        GREENROOM_LAUNCHER         = "nomad"
        GREENROOM_NOMAD_RUNNER_JOB = "runner"
        GREENROOM_NOMAD_COLD_JOB   = "runner-cold"
        # It isn't allowed to ask the agent.
        GREENROOM_NOMAD_VERSION = "${attr.nomad.version}"
        SSL_CERT_FILE           = "/etc/ssl/certs/ca-certificates.crt"
        SSL_CERT_DIR            = "${NOMAD_SECRETS_DIR}/ca"
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/service.env"
        env         = true
        change_mode = "noop"
        data        = <<-EOT
        {{ with $secret := nomadVar "nomad/jobs/scheduler" -}}
        NATS_URL={{ range $i, $nats := nomadService "nats" }}{{ if $i }},{{ end }}tls://scheduler:{{ $secret.nats_password }}@{{ $nats.Address }}:{{ $nats.Port }}{{ end }}
        {{- end }}
        OTEL_EXPORTER_OTLP_ENDPOINT={{ with nomadService "otlp" }}{{ with index . 0 }}http://{{ .Address }}:{{ .Port }}{{ end }}{{ end }}
        EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/ca/${var.nats_ca_hash}.0"
        change_mode = "noop"
        data        = "{{ with nomadVar \"nomad/jobs\" }}{{ .nats_ca }}{{ end }}"
      }

      resources {
        cpu    = var.scheduler_cpu
        memory = var.scheduler_memory
      }
    }
  }
}
