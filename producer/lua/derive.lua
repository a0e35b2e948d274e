-- Says that a blob is about to be made of a final job's result, or that it is stored: then it goes when the result does.
-- ARGV: id, blob, how long it may lie there before it is said to be stored (ms), or '' where it is stored
-- Returns {how long the job is kept yet (ms), 1 if the blob is there}; {} if there is no such job, or it has not ended.
local id, blob = ARGV[1], ARGV[2]
check_blob(blob)
if ARGV[3] ~= '' then whole(3, 1) end
if not FINAL[redis.call('HGET', job_key(id), 'state')] then return {} end
local now, left = now_ms(), math.max(1, redis.call('PTTL', job_key(id)))
local stored = redis.call('SISMEMBER', outcomes_key(id), blob)
if stored == 0 and ARGV[3] ~= '' then redis.call('ZADD', GARBAGE, now + ARGV[3], blob) end
if ARGV[3] == '' then
  stored = 1
  redis.call('SADD', outcomes_key(id), blob)
  redis.call('PEXPIRE', outcomes_key(id), left)
  redis.call('ZADD', GARBAGE, now + left, blob)
end
return { left, stored }
