//! Kubernetes objects in: parse, default, validate. No I/O.
