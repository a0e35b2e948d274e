-- Records a new job, unless the pool is full or has it already. Its units, when its pages are known, or "prepare".
-- ARGV: the admission (JSON): id, record (JSON text), blob, max_unfinished, deadline_ms (from now), ttl_s (of an
--       unfinished job), lane, pages_total or null, key (idempotency key or ''), fingerprint (of the request), webhook
--       (URL or ''), units.
-- Returns {'accepted'}, {'full'}, {'exists'}, {'same', id} where the key has brought a job, or {'mismatch'} where it has
-- brought one for another request.
local asked = cjson.decode(ARGV[1])
if type(asked) ~= 'table' then error('an admission is an object') end
local function text(name)
  if type(asked[name]) ~= 'string' then error(name .. ' must be a text') end
  return asked[name]
end
local function number(name, least) return check_whole(asked[name], name, least) end
local id, record, blob, lane, now = text('id'), text('record'), text('blob'), text('lane'), now_ms()
local most, deadline, ttl = number('max_unfinished', 0), now + number('deadline_ms', 0), number('ttl_s', 1)
local key, fingerprint = text('key'), text('fingerprint')
local webhook = text('webhook')
if webhook ~= '' then check_url(webhook) end
if type(cjson.decode(record)) ~= 'table' then error('a record is an object') end
if not string.match(id, '^%S+$') then error('an id is one word') end
check_lane(lane)
local total = asked.pages_total ~= cjson.null and number('pages_total', 1)
if type(asked.units) ~= 'table' then error('units must be a list') end
check_units(asked.units, 1)
if redis.call('EXISTS', job_key(id)) == 1 then return { 'exists' } end
if key ~= '' then
  local known = redis.call('HMGET', idempotency_key(key), 'job', 'fingerprint')
  if known[1] and known[2] ~= fingerprint then return { 'mismatch' } end
  if known[1] then return { 'same', known[1] } end
end
if redis.call('ZCARD', ACTIVE) >= most then return { 'full' } end
redis.call('HSET', job_key(id), 'record', record, 'blob', blob, 'state', 'queued', 'created', now,
  'deadline', deadline, 'pages_done', 0, 'pages_failed', 0)
if total then redis.call('HSET', job_key(id), 'pages_total', total) end
if webhook ~= '' then redis.call('HSET', job_key(id), 'webhook', webhook) end
for _, unit in ipairs(asked.units) do add_unit(id, unit, lane, 0, now) end
redis.call('EXPIRE', job_key(id), ttl)
redis.call('EXPIRE', spans_key(id), ttl)
if key ~= '' then
  redis.call('HSET', job_key(id), 'key', key)
  redis.call('HSET', idempotency_key(key), 'job', id, 'fingerprint', fingerprint)
  redis.call('EXPIRE', idempotency_key(key), ttl)
end
redis.call('ZADD', ACTIVE, deadline, id)
-- Moved forward when the job ends: a document goes even if no worker is left to end its job.
redis.call('ZADD', GARBAGE, now + ttl * 1000, blob)
redis.call('HINCRBY', TOTALS, 'jobs_accepted', 1)
return { 'accepted' }
