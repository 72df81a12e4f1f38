"""The shard format: montages, the manifest, tars, verified copies."""
