-- The owner of a reservation has gone: what was held counts as used, calls in flight are over. The record stays for a
-- late settlement.
-- KEYS: index of leases, record, the record's counters. ARGV: id, time a record stays (milliseconds).
-- Answer: {state, now, seven numbers for each counter}; {state, now} where the reservation lives or is over.
local known, lines = recall(KEYS[2])
if bad then return redis.error_reply(bad) end
local ends = call('ZSCORE', KEYS[1], ARGV[1])
if ends and tonumber(ends) > now then return {12, now} end
if known ~= 'r' then
  call('ZREM', KEYS[1], ARGV[1])
  return {known and 3 or 5, now}
end
if #lines ~= #KEYS - 2 then return redis.error_reply('XQARGS other counters than the record\'s: ' .. KEYS[2]) end
local books = {}
for i = 1, #lines do
  local line, key = lines[i], KEYS[i + 2]
  if line.key ~= key then return redis.error_reply('XQARGS other counters than the record\'s: ' .. key) end
  local b = open(key, line.terms)
  b.held, b.from = line.held, line.from
  if b.kind == 'c' then
    b.books = turn(b, b.from)
    if not b.books then b.flag = 3 end
  end
  books[i] = b
end
if bad then return redis.error_reply(bad) end
call('ZREM', KEYS[1], ARGV[1])
call('SET', KEYS[2], record('e', books), 'PX', ARGV[2])
local answer = {11, now}
for i = 1, #books do
  local b = books[i]
  if b.books == 'p' then
    b.pr, b.pu = most(0, b.pr - b.held), least(MOST, b.pu + b.held)
  elseif b.kind ~= 'c' then
    b.r = most(0, b.r - b.held)
  elseif b.books == 's' then
    b.r, b.u = most(0, b.r - b.held), least(MOST, b.u + b.held)
    alert(b)
  end
  if b.flag ~= 3 then save(b) end
  tell(answer, i, b, b.held)
end
return answer
