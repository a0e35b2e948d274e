-- Reads a job and its outcomes in the order in which they came. ARGV: id, how many of them to pass over, most outcomes,
-- '1' if the outcomes themselves are wanted.
-- Returns {fields and values}, how many outcomes there are, {page... of this part, -page where it failed}, {outcome...};
-- no fields if there is no such job.
local after, most = whole(2, 0), whole(3, 1, 1000)
local order = redis.call('LRANGE', order_key(ARGV[1]), after, after + most - 1)
local outcomes = {}
if ARGV[4] == '1' and #order > 0 then
  local names = {}
  for i, page in ipairs(order) do names[i] = string.gsub(page, '^-', '') end
  outcomes = redis.call('HMGET', pages_key(ARGV[1]), unpack(names))
end
return { redis.call('HGETALL', job_key(ARGV[1])), redis.call('LLEN', order_key(ARGV[1])), order, outcomes }
