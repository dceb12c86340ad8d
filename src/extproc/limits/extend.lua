-- Holds other amounts than before, all or none, and renews the lease. A reservation that has expired lives again.
-- KEYS: index of leases, record, counters as reserved. ARGV: id, lease (milliseconds), then new total and terms each.
-- Answer: {state, now, seven numbers for each counter}; {state, now} where the reservation is not known or is over.
local known, lines = recall(KEYS[2])
if bad then return redis.error_reply(bad) end
if not known then return {5, now} end
if known == 's' then return {3, now} end
if #lines ~= #KEYS - 2 then return redis.error_reply('XQARGS other counters than the record\'s: ' .. KEYS[2]) end
local books, refused = {}, false
for i = 1, #lines do
  local line, key = lines[i], KEYS[i + 2]
  if line.key ~= key then return redis.error_reply('XQARGS other counters than the record\'s: ' .. key) end
  local b = open(key, ARGV[2 * i + 2])
  b.from, b.was, b.held = line.from, line.held, tonumber(ARGV[2 * i + 1])
  if b.kind == 'c' then
    b.books = turn(b, b.from)
    if not b.books then b.flag = 3 end
  end
  local total = out(b) + b.held - b.was
  if b.flag == 0 and b.held > b.was and total > room(b) then
    b.flag = b.hard and 1 or 2
    refused = refused or b.hard
    if not b.hard then b.held = b.was + least(b.held - b.was, most(0, MOST - out(b))) end
  end
  books[i] = b
end
if bad then return redis.error_reply(bad) end
local answer = {refused and 1 or known == 'e' and 6 or 0, now}
if refused then
  for i = 1, #books do tell(answer, i, books[i], books[i].was) end
  return answer
end
call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
call('SET', KEYS[2], record('r', books))
for i = 1, #books do
  local b = books[i]
  local back = known == 'e' and 0 or b.was -- what the books still hold as reserved
  if b.kind == 'c' then
    if b.books == 'p' then
      b.pr = most(0, b.pr - back) + b.held
      if known == 'e' then b.pu = most(0, b.pu - b.was) end
    elseif b.books == 's' then
      b.r = most(0, b.r - back) + b.held
      if known == 'e' then b.u = most(0, b.u - b.was) end
    end
    if b.books then save(b) end
  else
    b.r = most(0, b.r - back) + b.held
    if b.kind == 'b' then b.o = least(MOST, most(0, b.o + b.held - b.was)) end
    save(b)
  end
  tell(answer, i, b, b.held)
end
return answer
