# For those who have no PostgreSQL: one server on one node, on a volume of its own (volumes/postgres.hcl). A managed or
# replicated one is better: nothing but DATABASE_URL knows of this job.

variable "namespace" {
  type = string
}

variable "datacenters" {
  type = list(string)
}

variable "postgres_image" {
  type = string
}

variable "postgres_cpu" {
  type = number
}

variable "postgres_memory" {
  type = number
}

variable "postgres_shared_buffers" {
  type = string
}

job "postgres" {
  namespace   = var.namespace
  datacenters = var.datacenters
  type        = "service"
  priority    = 85

  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "10s"
    healthy_deadline  = "10m"
    progress_deadline = "20m"
  }

  group "postgres" {
    count          = 1
    shutdown_delay = "2s"

    restart {
      attempts = 10
      interval = "10m"
      delay    = "10s"
      mode     = "delay"
    }

    # The data is on that node: never begin another one while it can't be reached.
    disconnect {
      lost_after = "24h"
      replace    = false
    }

    network {
      port "postgres" {
        static = 5432
      }
    }

    volume "database" {
      type            = "host"
      source          = "postgres"
      sticky          = true
      access_mode     = "single-node-single-writer"
      attachment_mode = "file-system"
    }

    service {
      name     = "postgres"
      provider = "nomad"
      port     = "postgres"

      check {
        name     = "open"
        type     = "tcp"
        interval = "10s"
        timeout  = "2s"
      }
    }

    task "postgres" {
      driver = "docker"
      # The user `postgres` of the image.
      user = "999:999"
      # A fast shutdown: connections are closed, nothing is lost.
      kill_signal  = "SIGINT"
      kill_timeout = "2m"

      config {
        image           = var.postgres_image
        args            = ["-c", "max_connections=200", "-c", "shared_buffers=${var.postgres_shared_buffers}"]
        ports           = ["postgres"]
        shm_size        = 268435456
        readonly_rootfs = true
        cap_drop        = ["ALL"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 512

        mount {
          type   = "tmpfs"
          target = "/var/run/postgresql"
          tmpfs_options {
            size = 1048576
          }
        }

        mount {
          type   = "tmpfs"
          target = "/tmp"
          tmpfs_options {
            size = 67108864
          }
        }
      }

      volume_mount {
        volume      = "database"
        destination = "/data"
      }

      env {
        PGDATA                 = "/data/pgdata"
        POSTGRES_USER          = "greenroom"
        POSTGRES_DB            = "greenroom"
        POSTGRES_PASSWORD_FILE = "${NOMAD_SECRETS_DIR}/password"
        POSTGRES_INITDB_ARGS   = "--data-checksums"
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/password"
        change_mode = "noop"
        data        = "{{ with nomadVar \"nomad/jobs/postgres\" }}{{ .password }}{{ end }}"
      }

      resources {
        cpu    = var.postgres_cpu
        memory = var.postgres_memory
      }
    }
  }
}
