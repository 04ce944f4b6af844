# Traces: services send spans by OTLP over HTTP, people look at them on port 16686. Kept for as long as nats keeps
# sessions, on a volume of its own (volumes/jaeger.hcl).

variable "namespace" {
  type = string
}

variable "datacenters" {
  type = list(string)
}

variable "jaeger_image" {
  type = string
}

variable "jaeger_cpu" {
  type = number
}

variable "jaeger_memory" {
  type = number
}

job "jaeger" {
  namespace   = var.namespace
  datacenters = var.datacenters
  type        = "service"
  priority    = 40

  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "10s"
    healthy_deadline  = "5m"
    progress_deadline = "10m"
  }

  group "jaeger" {
    count          = 1
    shutdown_delay = "1s"

    restart {
      attempts = 10
      interval = "10m"
      delay    = "10s"
      mode     = "delay"
    }

    # A fixed port: services read the address once, when they start.
    network {
      port "otlp" {
        static = 4318
      }
      port "ui" {
        to = 16686
      }
    }

    volume "traces" {
      type            = "host"
      source          = "jaeger"
      sticky          = true
      access_mode     = "single-node-single-writer"
      attachment_mode = "file-system"
    }

    service {
      name     = "otlp"
      provider = "nomad"
      port     = "otlp"

      check {
        name     = "open"
        type     = "tcp"
        interval = "10s"
        timeout  = "2s"
      }
    }

    service {
      name     = "jaeger"
      provider = "nomad"
      port     = "ui"

      check {
        name     = "answers"
        type     = "http"
        path     = "/"
        interval = "10s"
        timeout  = "2s"
      }
    }

    task "jaeger" {
      driver       = "docker"
      user         = "10001"
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      config {
        image           = var.jaeger_image
        args            = ["--config", "${NOMAD_TASK_DIR}/jaeger.yaml"]
        ports           = ["otlp", "ui"]
        readonly_rootfs = true
        cap_drop        = ["ALL"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 256
      }

      volume_mount {
        volume      = "traces"
        destination = "/data"
      }

      template {
        destination = "${NOMAD_TASK_DIR}/jaeger.yaml"
        change_mode = "restart"
        data        = <<-EOT
        service:
          extensions: [jaeger_storage, jaeger_query]
          pipelines:
            traces:
              receivers: [otlp]
              processors: [batch]
              exporters: [jaeger_storage_exporter]
        extensions:
          jaeger_storage:
            backends:
              disk:
                badger:
                  ephemeral: false
                  directories:
                    keys: /data/keys
                    values: /data/values
                  ttl:
                    spans: 168h
          jaeger_query:
            storage:
              traces: disk
            http:
              endpoint: 0.0.0.0:16686
        receivers:
          otlp:
            protocols:
              http:
                endpoint: 0.0.0.0:4318
        processors:
          batch: {}
        exporters:
          jaeger_storage_exporter:
            trace_storage: disk
        EOT
      }

      resources {
        cpu    = var.jaeger_cpu
        memory = var.jaeger_memory
      }
    }
  }
}
