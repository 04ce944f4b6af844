# The workload identity of the job `scheduler`: launches, looks at and ends runners. Dispatch and scale can't be granted
# for single jobs, so the namespace has nothing else in it than Greenroom.
#
#   nomad acl policy apply -namespace voice -job scheduler voice-scheduler deploy/nomad/policies/scheduler.hcl

namespace "voice" {
  # deregister-job by itself: Nomad 1.11.3 and later.
  capabilities = ["list-jobs", "read-job", "dispatch-job", "read-job-scaling", "scale-job", "deregister-job"]
}
