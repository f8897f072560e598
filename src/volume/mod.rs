//! emptyDir, hostPath and subPath: prepare, verify, remove.
