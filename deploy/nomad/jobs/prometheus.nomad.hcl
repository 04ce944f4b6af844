# Metrics of all services, and the alerts of deploy/prometheus.

variable "namespace" {
  type = string
}

variable "datacenters" {
  type = list(string)
}

variable "prometheus_image" {
  type = string
}

variable "prometheus_cpu" {
  type = number
}

variable "prometheus_memory" {
  type = number
}

job "prometheus" {
  namespace   = var.namespace
  datacenters = var.datacenters
  type        = "service"
  priority    = 45

  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "10s"
    healthy_deadline  = "5m"
    progress_deadline = "10m"
  }

  group "prometheus" {
    count          = 1
    shutdown_delay = "1s"

    restart {
      attempts = 10
      interval = "10m"
      delay    = "10s"
      mode     = "delay"
    }

    network {
      port "prometheus" {
        to = 9090
      }
    }

    volume "metrics" {
      type            = "host"
      source          = "prometheus"
      sticky          = true
      access_mode     = "single-node-single-writer"
      attachment_mode = "file-system"
    }

    service {
      name     = "prometheus"
      provider = "nomad"
      port     = "prometheus"

      check {
        name     = "ready"
        type     = "http"
        path     = "/-/ready"
        interval = "10s"
        timeout  = "2s"
      }
    }

    task "prometheus" {
      driver       = "docker"
      user         = "10001"
      kill_signal  = "SIGTERM"
      kill_timeout = "2m"

      config {
        image = var.prometheus_image
        args = [
          "--config.file=${NOMAD_TASK_DIR}/prometheus.yml",
          "--storage.tsdb.path=/data",
          "--storage.tsdb.retention.time=30d",
          "--enable-feature=exemplar-storage",
        ]
        ports           = ["prometheus"]
        readonly_rootfs = true
        cap_drop        = ["ALL"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 256
      }

      volume_mount {
        volume      = "metrics"
        destination = "/data"
      }

      template {
        destination   = "${NOMAD_TASK_DIR}/prometheus.yml"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = file("../../prometheus/prometheus.yml")
      }

      # Alerts have templates of their own in them: other brackets for Nomad.
      template {
        destination     = "${NOMAD_TASK_DIR}/alerts.yml"
        change_mode     = "signal"
        change_signal   = "SIGHUP"
        left_delimiter  = "[[["
        right_delimiter = "]]]"
        data            = file("../../prometheus/alerts.yml")
      }

      # Prometheus looks at this file by itself.
      template {
        destination = "${NOMAD_TASK_DIR}/targets.yml"
        change_mode = "noop"
        data        = <<-EOT
        {{ range nomadService "api-health" }}
        - targets: ["{{ .Address }}:{{ .Port }}"]
          labels: { service: api }
        {{ end }}
        {{ range nomadService "scheduler-health" }}
        - targets: ["{{ .Address }}:{{ .Port }}"]
          labels: { service: scheduler }
        {{ end }}
        {{ range nomadService "runner-health" }}
        - targets: ["{{ .Address }}:{{ .Port }}"]
          labels: { service: runner }
        {{ end }}
        {{ range nomadService "runner-cold-health" }}
        - targets: ["{{ .Address }}:{{ .Port }}"]
          labels: { service: runner-cold }
        {{ end }}
        {{ range nomadService "recorder-health" }}
        - targets: ["{{ .Address }}:{{ .Port }}"]
          labels: { service: recorder }
        {{ end }}
        EOT
      }

      resources {
        cpu    = var.prometheus_cpu
        memory = var.prometheus_memory
      }
    }
  }
}
