//! CRI-shaped verbs over sandboxes and containers.
