"""Process supervision around `paddle.distributed.launch`: dead ranks, orphans, private logs."""
