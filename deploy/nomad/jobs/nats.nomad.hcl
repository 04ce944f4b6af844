# NATS with JetStream, one server a node, each with a volume of its own (volumes/nats.hcl) that it stays with. A server
# that stops sends its clients to the others first (lame duck); a new version replaces one after the other, the next one
# only when the last is up to date with all streams (/healthz).

variable "namespace" {
  type = string
}

variable "datacenters" {
  type = list(string)
}

variable "nats_image" {
  type = string
}

variable "nats_count" {
  type = number
}

variable "nats_storage" {
  type = string
}

variable "nats_cpu" {
  type = number
}

variable "nats_memory" {
  type = number
}

job "nats" {
  namespace   = var.namespace
  datacenters = var.datacenters
  type        = "service"
  priority    = 90

  update {
    max_parallel      = 1
    auto_revert       = true
    health_check      = "checks"
    min_healthy_time  = "30s"
    healthy_deadline  = "5m"
    progress_deadline = "15m"
  }

  migrate {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "30s"
    healthy_deadline = "5m"
  }

  group "nats" {
    count          = var.nats_count
    shutdown_delay = "2s"

    constraint {
      operator = "distinct_hosts"
      value    = "true"
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "5s"
      mode     = "delay"
    }

    # Its streams are on that node: one elsewhere would begin with none.
    disconnect {
      lost_after = "24h"
      replace    = false
    }

    network {
      mode = "host"
      port "client" {
        static = 4222
      }
      port "route" {
        static = 6222
      }
      port "monitor" {
        static = 8222
      }
    }

    volume "streams" {
      type            = "host"
      source          = "nats"
      sticky          = true
      access_mode     = "single-node-single-writer"
      attachment_mode = "file-system"
    }

    service {
      name     = "nats"
      provider = "nomad"
      port     = "client"

      check {
        name     = "in-step"
        type     = "http"
        port     = "monitor"
        path     = "/healthz"
        interval = "10s"
        timeout  = "5s"
      }
    }

    service {
      name     = "nats-route"
      provider = "nomad"
      port     = "route"

      check {
        name     = "open"
        type     = "tcp"
        interval = "10s"
        timeout  = "2s"
      }
    }

    task "nats" {
      driver = "docker"
      user   = "10001"
      # Lame duck: 40 s (nats/server.conf).
      kill_signal  = "SIGUSR2"
      kill_timeout = "60s"

      config {
        image           = var.nats_image
        args            = ["--config", "${NOMAD_SECRETS_DIR}/server.conf"]
        network_mode    = "host"
        readonly_rootfs = true
        cap_drop        = ["ALL"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 1024
      }

      volume_mount {
        volume      = "streams"
        destination = "/data"
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/server.conf"
        change_mode = "restart"
        data        = file("../nats/server.conf")
      }

      template {
        destination   = "${NOMAD_SECRETS_DIR}/users.conf"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = file("../nats/users.conf")
      }

      template {
        destination   = "${NOMAD_SECRETS_DIR}/passwords.conf"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = <<-EOT
        {{ with nomadVar "nomad/jobs/nats" -}}
        API_PASSWORD: "{{ .api_password }}"
        SCHEDULER_PASSWORD: "{{ .scheduler_password }}"
        RUNNER_PASSWORD: "{{ .runner_password }}"
        RECORDER_PASSWORD: "{{ .recorder_password }}"
        OPERATOR_PASSWORD: "{{ .operator_password }}"
        PUBLISHER_PASSWORD: "{{ .publisher_password }}"
        ADMIN_PASSWORD: "{{ .admin_password }}"
        SESSION_ISSUER: "{{ .session_issuer }}"
        {{- end }}
        EOT
      }

      # A server finds itself among the routes, since it is registered before it starts, and leaves that one alone:
      # JetStream in a cluster wants a route from the first moment on. One server alone is no cluster.
      template {
        destination   = "${NOMAD_SECRETS_DIR}/site.conf"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        splay         = "10s"
        data          = <<-EOT
        server_name: "nats-{{ env "NOMAD_ALLOC_INDEX" }}"
        client_advertise: "{{ env "NOMAD_ADDR_client" }}"
        tls {
          cert_file: "{{ env "NOMAD_SECRETS_DIR" }}/server.pem"
          key_file: "{{ env "NOMAD_SECRETS_DIR" }}/server-key.pem"
          timeout: 5
        }
        jetstream {
          store_dir: "/data/jetstream"
          max_memory_store: 256MB
          max_file_store: ${var.nats_storage}
          sync_interval: "1s"
        }
        {{ if ne "${var.nats_count}" "1" -}}
        cluster {
          name: "greenroom"
          listen: "0.0.0.0:6222"
          advertise: "{{ env "NOMAD_ADDR_route" }}"
          tls {
            cert_file: "{{ env "NOMAD_SECRETS_DIR" }}/server.pem"
            key_file: "{{ env "NOMAD_SECRETS_DIR" }}/server-key.pem"
            ca_file: "{{ env "NOMAD_SECRETS_DIR" }}/ca.pem"
            timeout: 5
          }
          routes: [
            {{ range nomadService "nats-route" -}}
            "nats-route://{{ .Address }}:{{ .Port }}"
            {{ end -}}
          ]
        }
        {{- end }}
        EOT
      }

      template {
        destination   = "${NOMAD_SECRETS_DIR}/server.pem"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = "{{ with nomadVar \"nomad/jobs/nats\" }}{{ .server_certificate }}{{ end }}"
      }

      template {
        destination   = "${NOMAD_SECRETS_DIR}/server-key.pem"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = "{{ with nomadVar \"nomad/jobs/nats\" }}{{ .server_key }}{{ end }}"
      }

      template {
        destination   = "${NOMAD_SECRETS_DIR}/ca.pem"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = "{{ with nomadVar \"nomad/jobs\" }}{{ .nats_ca }}{{ end }}"
      }

      resources {
        cpu    = var.nats_cpu
        memory = var.nats_memory
      }
    }
  }
}
