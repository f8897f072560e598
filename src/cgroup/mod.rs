//! cgroup hierarchies: v1, v2 and hybrid; limits, placement, kill, remove.
