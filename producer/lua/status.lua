-- Reads a job without its pages. ARGV: id. Returns its fields and values, none if there is no such job.
return redis.call('HGETALL', job_key(ARGV[1]))
