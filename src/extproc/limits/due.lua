-- Which leases have run out, the longest ago first. KEYS: index of leases. ARGV: how many at most.
-- Answer: {now, ids}.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
return {now, redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])}
