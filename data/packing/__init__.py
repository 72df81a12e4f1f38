"""Work items become a shard folder, continued where an earlier pack stopped."""
