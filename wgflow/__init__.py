"""wgflow: Wasserstein gradient flows, certified."""
