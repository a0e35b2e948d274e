-- Records a new job, unless the pool is full or has it already. Its units, when its pages are known, or "prepare".
-- ARGV: id, record, blob, max unfinished jobs, deadline (ms from now), TTL of an unfinished job (s),
--       lane, pages total or '', idempotency key or '', fingerprint of the request, unit...
-- Returns {'accepted'}, {'full'}, {'exists'}, {'same', id} where the key has brought a job, or {'mismatch'} where it has
-- brought one for another request.
local id, now = ARGV[1], now_ms()
if type(cjson.decode(ARGV[2])) ~= 'table' then error('a record is an object') end
if not string.match(id, '^%S+$') then error('an id is one word') end
whole(4, 0); whole(5, 0); whole(6, 1)
check_lane(ARGV[7])
if ARGV[8] ~= '' then whole(8, 1) end
check_units(11)
if redis.call('EXISTS', job_key(id)) == 1 then return { 'exists' } end
local key = ARGV[9] ~= '' and idempotency_key(ARGV[9])
if key then
  local known = redis.call('HMGET', key, 'job', 'fingerprint')
  if known[1] and known[2] ~= ARGV[10] then return { 'mismatch' } end
  if known[1] then return { 'same', known[1] } end
end
if redis.call('ZCARD', ACTIVE) >= tonumber(ARGV[4]) then return { 'full' } end
redis.call('HSET', job_key(id), 'record', ARGV[2], 'blob', ARGV[3], 'state', 'queued', 'created', now,
  'deadline', now + ARGV[5], 'pages_done', 0, 'pages_failed', 0)
if ARGV[8] ~= '' then redis.call('HSET', job_key(id), 'pages_total', ARGV[8]) end
for i = 11, #ARGV do add_unit(id, ARGV[i], ARGV[7], 0, now) end
redis.call('EXPIRE', job_key(id), ARGV[6])
redis.call('EXPIRE', spans_key(id), ARGV[6])
if key then
  redis.call('HSET', job_key(id), 'key', ARGV[9])
  redis.call('HSET', key, 'job', id, 'fingerprint', ARGV[10])
  redis.call('EXPIRE', key, ARGV[6])
end
redis.call('ZADD', ACTIVE, now + ARGV[5], id)
-- Moved forward when the job ends: a document goes even if no worker is left to end its job.
redis.call('ZADD', GARBAGE, now + ARGV[6] * 1000, ARGV[3])
redis.call('HINCRBY', TOTALS, 'jobs_accepted', 1)
return { 'accepted' }
