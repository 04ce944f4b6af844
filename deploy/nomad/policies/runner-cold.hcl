# The workload identity of the job `runner-cold` and of what is dispatched from it: reads the secrets of the warm
# runners, so that they are written down once.
#
#   nomad acl policy apply -namespace voice -job runner-cold voice-runner-cold deploy/nomad/policies/runner-cold.hcl

namespace "voice" {
  variables {
    path "nomad/jobs/runner" {
      capabilities = ["read"]
    }
    path "nomad/jobs/runner/runner" {
      capabilities = ["read"]
    }
  }
}
