# A cluster of three servers and at least three clients. Used by all jobs, each of which takes what it declares:
#
#   nomad job run -hcl2-strict=false -var-file=deploy/nomad/vars/prod.hcl deploy/nomad/jobs/api.nomad.hcl

namespace   = "voice"
datacenters = ["dc1"]

# Images of containers/, as your registry has them: PREFIXgreenroom-api:RELEASE and so on.
image_prefix = "registry.example.org/voice/"
release      = "0.1.0"

# Tags move: name the digest as well (name:tag@sha256:…) once you have chosen.
nats_image       = "docker.io/library/nats:2.12-alpine"
postgres_image   = "docker.io/library/postgres:18"
jaeger_image     = "docker.io/jaegertracing/jaeger:2.20.0"
prometheus_image = "docker.io/prom/prometheus:v3.7.3"

# openssl x509 -hash -noout -in ca.pem
nats_ca_hash = "00000000"

# How long calls may go on in what is being replaced. The longest call of an agent is 7200 s unless it says otherwise:
# longer calls need more, in all three and in max_kill_timeout of agent/client.hcl.
call_drain_timeout_s   = 7260
call_kill_timeout      = "125m"
call_progress_deadline = "135m"

api_count       = 3
api_cpu         = 1000
api_memory      = 512
api_tags        = []
public_url      = "https://voice.example.org"
allowed_origins = ""

# Empty: none.
ice_servers = ""
turn_urls   = ""

scheduler_count  = 3
scheduler_cpu    = 1000
scheduler_memory = 512

# A number that the memory is enough for (512 MB for the runner, and 60 for each session), or "auto": as many calls as
# fit by what they are measured to cost, 12 a processor until then.
pool              = "default"
runner_count      = 4
runner_count_max  = 40
runner_slots      = "24"
runner_standby    = 4
runner_cpu        = 4000
runner_memory     = 2048
runner_memory_max = 4096
runner_labels     = ""
runner_bots       = ""
bot_version       = ""

# Percent of time that work waits for a processor, from which on a runner takes nothing new; 0: not looked at, for nodes
# on which something else computes all the time.
runner_brake_cpu_pressure = 98

# What a node's network carries, Mbit/s; 0: what its interfaces say, where they do.
runner_network_mbit = 0

# A runner for one call.
cold_cpu              = 500
cold_memory           = 768
cold_memory_max       = 1024
cold_max_run_duration = "140m"

recorder_count  = 2
recorder_cpu    = 1000
recorder_memory = 512

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

nats_count   = 3
nats_storage = "50GB"
nats_cpu     = 2000
nats_memory  = 1024

postgres_cpu            = 2000
postgres_memory         = 2048
postgres_shared_buffers = "512MB"

jaeger_cpu    = 500
jaeger_memory = 1024

prometheus_cpu    = 500
prometheus_memory = 1024
