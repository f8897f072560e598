//! Kubelet semantics as pure functions over records; time is a parameter.
