-- Records a new job, unless the pool is full or has it already. Its units, when its pages are known, or "prepare".
-- ARGV: the admission (JSON): id, record (JSON text), blob, max_unfinished, deadline_ms (from now), ttl_s (of an
--       unfinished job), lane, pages_total or null, key (idempotency key or ''), fingerprint (of the request), webhook
--       (URL or ''), units, and where there is one: batch, the group that it belongs to, and batch_most, the jobs that
--       a group may have; retry_of, the final job whose document it reads again.
-- Returns {'accepted'}, {'full'}, {'exists'}, {'same', id} where the key, or a retry before this one, has brought a job,
-- {'mismatch'} where the key has brought one for another request, {'batch full'}, or {'gone'} or {'not final'} of the job
-- that is tried again.
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
local batch = asked.batch ~= nil and text('batch') or ''
local batch_most = batch ~= '' and number('batch_most', 1)
local retry_of = asked.retry_of ~= nil and text('retry_of') or ''
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
if retry_of ~= '' then
  local old = redis.call('HMGET', job_key(retry_of), 'state', 'retried_by')
  if not old[1] then return { 'gone' } end
  if not FINAL[old[1]] then return { 'not final' } end
  if old[2] and redis.call('EXISTS', job_key(old[2])) == 1 then return { 'same', old[2] } end
end
if redis.call('ZCARD', ACTIVE) >= most then return { 'full' } end
if batch ~= '' and redis.call('LLEN', batch_key(batch)) >= batch_most then return { 'batch full' } end
local nth = redis.call('HINCRBY', TOTALS, 'jobs_accepted', 1)
redis.call('HSET', job_key(id), 'record', record, 'blob', blob, 'state', 'queued', 'created', now,
  'deadline', deadline, 'pages_done', 0, 'pages_failed', 0, 'number', nth, 'lane', lane, 'first', asked.units[1])
redis.call('ZADD', index_key('queued'), nth, id)
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
if batch ~= '' then
  redis.call('RPUSH', batch_key(batch), id)
  redis.call('EXPIRE', batch_key(batch), math.max(ttl, redis.call('TTL', batch_key(batch))))
end
if retry_of ~= '' then redis.call('HSET', job_key(retry_of), 'retried_by', id) end
redis.call('ZADD', ACTIVE, deadline, id)
-- Moved forward when the job ends: a document goes even if no worker is left to end its job.
redis.call('ZADD', GARBAGE, now + ttl * 1000, blob)
return { 'accepted' }
