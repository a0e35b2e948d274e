-- Records a new job, unless the pool is full or has it already. Its units, when its pages are known, or "prepare".
-- ARGV: the admission (JSON): id, record (JSON text), blob, max_unfinished, deadline_ms (from now), ttl_s (of an
--       unfinished job), lane, pages_total or null, key (idempotency key or ''), fingerprint (of the request), webhook
--       (URL or ''), units, tenant, size_bytes, limits (of a tenant that has none of its own; see `producer.limits`),
--       document (digest for the cache, or ''), source (final job that has its pages, or ''), follows (whether it may
--       wait for another job with this document), known_s and known_bytes (how long, and up to which size, its own
--       pages are given to others), result_ttl_s; and where there is one: batch, the group of the tenant's that it
--       belongs to, and batch_most, the jobs that a group may have; retry_of, the final job whose document it reads
--       again; messages, the broker's for the units, and publishes, whether they are published with the job.
-- Returns, with `status_of` the job, {'accepted', ...}, {'final', ...} with the pages of `source` or {'follows', ...};
-- {'lapsed'} where `source` has them no more, {'exists'}, {'same', id} where the key, or a retry before this one, has
-- brought a job, {'mismatch'} where the key has brought one for another request, {'batch full'}, {'gone'} or
-- {'not final'} of the job that is tried again; or, with the seconds after which it may be tried again (0: unknown),
-- {'full', seconds} where the pool is full, {'quota', seconds, limit, most} where the tenant has used up what it may
-- have, {'large', 0, limit, most} where no document of it may be so large.
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
local messages = asked.messages or {}
if type(messages) ~= 'table' then error('messages must be a list') end
for _, message in ipairs(messages) do if type(message) ~= 'string' then error('a message is a text') end end
local document, source, follows = text('document'), text('source'), asked.follows
local known_s, known_bytes, result_ttl = number('known_s', 0), number('known_bytes', 0), number('result_ttl_s', 0)
local tenant, size = text('tenant'), number('size_bytes', 0)
if not string.match(tenant, '^[%w_.-]*$') then error('a tenant is one word') end
if type(asked.limits) ~= 'table' then error('limits must be an object') end
local own = cjson.decode(redis.call('HGET', TENANTS, tenant) or '{}')
local function limit(name)
  local most = tonumber(own[name] or asked.limits[name])
  if not most or not (most >= 0 and most <= 1e15) then error(name .. ' must be a number in range') end
  return most
end
local most_pages, most_jobs = limit('max_queued_pages'), limit('max_unfinished_jobs')
local most_bytes, most_requests = limit('max_document_bytes'), limit('max_requests_per_s')
if redis.call('EXISTS', job_key(id)) == 1 then return { 'exists' } end
if key ~= '' then
  local known = redis.call('HMGET', idempotency_key(key), 'job', 'fingerprint')
  if known[1] and known[2] ~= fingerprint then return { 'mismatch' } end
  if known[1] then return { 'same', known[1] } end
end
if source ~= '' and not is_known(source, document) then return { 'lapsed' } end
if retry_of ~= '' then
  local old = redis.call('HMGET', job_key(retry_of), 'state', 'retried_by', 'tenant')
  if not old[1] or old[3] ~= tenant then return { 'gone' } end
  if not FINAL[old[1]] then return { 'not final' } end
  if old[2] and redis.call('EXISTS', job_key(old[2])) == 1 then return { 'same', old[2] } end
end
if batch ~= '' and redis.call('LLEN', batch_key(tenant, batch)) >= batch_most then return { 'batch full' } end
local load = redis.call('HMGET', LOAD, 'jobs ' .. tenant, 'pages ' .. tenant)
local jobs, pages = tonumber(load[1]) or 0, tonumber(load[2]) or 0

-- Seconds in which the pool has read so many pages more, at the rate of late.
local function seconds_for(some)
  local rate = tonumber(redis.call('HGET', PACE, 'rate')) or 0
  return rate > 0 and math.max(1, math.min(3600, math.ceil(1000 * some / rate))) or 0
end
-- The pages of the whole pool, and how many tenants have some.
local function all_load()
  local sum, sharing, fields = 0, 0, redis.call('HGETALL', LOAD)
  for i = 1, #fields, 2 do
    local here = string.sub(fields[i], 1, 6) == 'pages ' and tonumber(fields[i + 1]) or 0
    sum, sharing = sum + here, sharing + (here > 0 and 1 or 0)
  end
  return sum, sharing
end
-- The same of pages of this tenant, which takes turns with the others.
local function seconds_for_own(some)
  local _, sharing = all_load()
  return seconds_for(some * math.max(1, sharing))
end
local function quota(seconds, name, of) return { 'quota', seconds, name, string.format('%.14g', of) } end

if most_bytes > 0 and size > most_bytes then return { 'large', 0, 'max_document_bytes', string.format('%d', most_bytes) } end
local bucket, free_at, gap = ns .. ':bucket:' .. tenant, now, 0
if most_requests > 0 then
  gap, free_at = 1000 / most_requests, math.max(now, tonumber(redis.call('GET', bucket) or 0))
  local early = free_at - now - (math.max(1, most_requests) - 1) * gap
  if early > 0 then return quota(math.ceil(early / 1000), 'max_requests_per_s', most_requests) end
end
local wanted = total or 1
-- What is known is no work.
if source == '' and most_jobs > 0 and jobs >= most_jobs then
  return quota(seconds_for_own(pages / jobs), 'max_unfinished_jobs', most_jobs)
end
if source == '' and most_pages > 0 and pages + wanted > most_pages then
  return quota(seconds_for_own(pages + wanted - most_pages), 'max_queued_pages', most_pages)
end
local unfinished = redis.call('ZCARD', ACTIVE)
if source == '' and unfinished >= most then
  return { 'full', seconds_for(all_load() / math.max(1, unfinished)) }
end
if gap > 0 then redis.call('SET', bucket, free_at + gap, 'PX', math.ceil(free_at + gap - now) + 1) end
local nth = redis.call('HINCRBY', TOTALS, 'jobs_accepted', 1)
redis.call('HSET', job_key(id), 'record', record, 'blob', blob, 'state', 'queued', 'created', now, 'tenant', tenant,
  'deadline', deadline, 'pages_done', 0, 'pages_failed', 0, 'number', nth, 'lane', lane, 'first', asked.units[1])
enter_index(id, tenant, 'queued', nth)
if total then redis.call('HSET', job_key(id), 'pages_total', total) end
if webhook ~= '' then redis.call('HSET', job_key(id), 'webhook', webhook) end
local leader
if document ~= '' and source == '' then
  leader = follows and leader_of(document, lane)
  redis.call('HSET', job_key(id), 'document', document, 'known_s', known_s, 'known_bytes', known_bytes)
  if not leader then redis.call('SET', leader_key(document, lane), id, 'EX', ttl) end
  if follows and not leader then redis.call('HINCRBY', TOTALS, 'documents_missed', 1) end
end
if leader then
  follow(leader, id, asked.units, messages, lane)
else
  for _, unit in ipairs(asked.units) do add_unit(id, unit, lane, 0, now) end
  local publishes = asked.publishes and source == ''
  for _, message in ipairs(publishes and messages or {}) do redis.call('LPUSH', queue_key(lane), message) end
end
redis.call('EXPIRE', job_key(id), ttl)
redis.call('EXPIRE', spans_key(id), ttl)
if key ~= '' then
  redis.call('HSET', job_key(id), 'key', key)
  redis.call('HSET', idempotency_key(key), 'job', id, 'fingerprint', fingerprint)
  redis.call('EXPIRE', idempotency_key(key), ttl)
end
weigh(id, tenant, wanted)
if batch ~= '' then
  local group = batch_key(tenant, batch)
  redis.call('RPUSH', group, id)
  redis.call('EXPIRE', group, math.max(ttl, redis.call('TTL', group)))
end
if retry_of ~= '' then redis.call('HSET', job_key(retry_of), 'retried_by', id) end
redis.call('ZADD', ACTIVE, deadline, id)
-- Moved forward when the job ends: a document goes even if no worker is left to end its job.
redis.call('ZADD', GARBAGE, now + ttl * 1000, blob)
if source ~= '' then
  adopt(id, source, 'hit', result_ttl, now)
  return { 'final', status_of(id) }
end
return { leader and 'follows' or 'accepted', status_of(id) }
