-- Lists jobs, the last accepted first. ARGV: a state or '' for all, a job's number (those before it alone) or '', most jobs,
-- '=' and a tenant, for its jobs alone, or ''.
-- Returns {number, id, {fields and values}} for each; no fields if its record is gone.
local most, before = whole(3, 1, 1000), ARGV[2] == '' and '+inf' or '(' .. whole(2, 0)
local states = STATES
if ARGV[1] ~= '' then
  states = {}
  for _, state in ipairs(STATES) do if state == ARGV[1] then states = { state } end end
  if #states == 0 then error('there is no such state') end
end
local tenant = string.match(ARGV[4], '^=(.*)$')
if not tenant and ARGV[4] ~= '' then error('a tenant follows =') end
local rows = {}
for _, state in ipairs(states) do
  local key = tenant and own_index_key(state, tenant) or index_key(state)
  local found = redis.call('ZRANGE', key, before, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, most, 'WITHSCORES')
  for i = 1, #found, 2 do rows[#rows + 1] = { tonumber(found[i + 1]), string.match(found[i], '^%S+') } end
end
table.sort(rows, function(a, b) return a[1] > b[1] end)
local out = {}
for i = 1, math.min(most, #rows) do
  out[i] = { rows[i][1], rows[i][2], redis.call('HGETALL', job_key(rows[i][2])) }
end
return out
