# One machine, one of each: `nomad agent -dev -config=deploy/nomad/agent/dev.hcl`. Calls are cut when something is
# replaced: nobody wants to wait for that here.

namespace   = "voice"
datacenters = ["dc1"]

image_prefix = "localhost/"
release      = "dev"

nats_image       = "docker.io/library/nats:2.12-alpine"
postgres_image   = "docker.io/library/postgres:18"
jaeger_image     = "docker.io/jaegertracing/jaeger:2.20.0"
prometheus_image = "docker.io/prom/prometheus:v3.7.3"

# openssl x509 -hash -noout -in ca.pem
nats_ca_hash = "00000000"

call_drain_timeout_s   = 20
call_kill_timeout      = "28s"
call_progress_deadline = "10m"

api_count       = 1
api_cpu         = 200
api_memory      = 256
api_tags        = []
public_url      = ""
allowed_origins = ""

# Empty: none.
ice_servers = ""
turn_urls   = ""

scheduler_count  = 1
scheduler_cpu    = 200
scheduler_memory = 256

pool              = "default"
runner_count      = 1
runner_count_max  = 3
runner_slots      = "8"
runner_standby    = 2
runner_cpu        = 1000
runner_memory     = 1024
runner_memory_max = 2048
runner_labels     = ""
runner_bots       = ""
bot_version       = ""

# Percent of time that work waits for a processor, from which on a runner takes nothing new; 0: not looked at, for nodes
# on which something else computes all the time.
runner_brake_cpu_pressure = 0

# What a node's network carries, Mbit/s; 0: what its interfaces say, where they do.
runner_network_mbit = 0

cold_cpu              = 300
cold_memory           = 768
cold_memory_max       = 1024
cold_max_run_duration = "130m"

recorder_count  = 1
recorder_cpu    = 200
recorder_memory = 256

# Of the recorder and the api alike; empty: none. Secrets are in variables of Nomad, see README.md.
recordings_url = ""
recording_keys = ""
webhook_keys   = ""
webhook_allow  = ""

# What becomes of calls that are over.
recording_format        = "wav"
recording_layout        = "stereo"
recording_keys_required = "false"
post_call_steps         = ""
post_call_offered       = ""
summary_url             = "https://api.openai.com/v1"
summary_model           = ""
retention_at            = "03:30"
retention_zone          = "Europe/Berlin"

nats_count   = 1
nats_storage = "2GB"
nats_cpu     = 200
nats_memory  = 256

postgres_cpu            = 200
postgres_memory         = 512
postgres_shared_buffers = "128MB"

jaeger_cpu    = 200
jaeger_memory = 512

prometheus_cpu    = 200
prometheus_memory = 512
