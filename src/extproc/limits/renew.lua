-- Renews leases. KEYS: index of leases. ARGV: lease (milliseconds), ids.
-- Answer: {now, then the places of the ids that are not in the index any more, from 0}.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ends, answer = now + tonumber(ARGV[1]), {now}
for i = 2, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[1], 'XX', ends, ARGV[i])
  else
    answer[#answer + 1] = i - 2
  end
end
return answer
