-- Counts what is to be done. ARGV: queue prefix. Returns name, count, ...
local prefix = ARGV[1]
if not prefix then error('arguments are missing') end
local out = { 'unfinished', redis.call('ZCARD', ACTIVE), 'running', redis.call('SCARD', RUNNING),
  'leased', redis.call('ZCARD', LEASES) }
for _, lane in ipairs(LANES) do
  local waiting = 0
  for _, tenant in ipairs(tenants_in(lane)) do waiting = waiting + redis.call('ZCARD', waiting_key(lane, tenant)) end
  for _, value in ipairs({ 'waiting_' .. lane, waiting, 'queue_' .. lane, redis.call('LLEN', prefix .. lane) }) do
    out[#out + 1] = value
  end
end
return out
