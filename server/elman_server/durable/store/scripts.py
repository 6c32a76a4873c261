"""The rules of `record.py` in Redis' Lua. Each script makes its changes atomically.

The store has two values per key. A hash is the key's record (`generation`, `owner`, `last`,
`until`, `wanted`, `kept` and `saved`, the number of the last save). A string is the checkpoint. An
additional string, for all keys together, is the time at which the store's data begins. All times
are milliseconds of Redis' clock. Scripts for many claims answer with a letter per claim.
"""

from elman_server.durable.store.record import REMEMBERED

_COMMON = f"""
local REMEMBERED = {REMEMBERED}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function digits(number)
  return string.format('%.0f', number)
end

local function remember(record, needed)
  redis.call('PEXPIRE', record, digits(math.max(needed - now, 0) + REMEMBERED))
end
"""

# Shared by the scripts for many claims.
_MANY = (
    _COMMON
    + """
local function standing_of(found, generation, owner)
  local mine, known = tonumber(generation), tonumber(found[1]) or 0
  if known > mine or (known == mine and found[2] ~= owner) then
    return 'lost'
  end
  return known < mine and 'forgotten' or 'current'
end

local function recall(record, generation, owner)
  redis.call('HSET', record, 'generation', generation, 'owner', owner, 'last', owner)
  redis.call('HDEL', record, 'until', 'wanted', 'saved')
end
"""
)

CLAIM = (
    _COMMON
    + """
-- KEYS: record, checkpoint, since. ARGV: owner, lease, whether only if nobody had it since.
local record, checkpoint = KEYS[1], KEYS[2]
local owner, lease, again = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local found = redis.call('HMGET', record, 'generation', 'owner', 'until', 'kept', 'last')
local ends = tonumber(found[3]) or 0
local since = tonumber(redis.call('GET', KEYS[3]))
if not since then
  since = now
  redis.call('SET', KEYS[3], digits(now))
end
if not found[1] and now < since + lease then
  return {0, '0', digits(since + lease - now)}
end
if again then
  if found[5] and found[5] ~= owner then
    return {0, found[1], digits(math.max(0, ends - now))}
  end
elseif found[2] and found[2] ~= owner and ends > now then
  redis.call('HSET', record, 'wanted', '1')
  return {0, found[1], digits(ends - now)}
end
local generation = digits(math.max((tonumber(found[1]) or 0) + 1, now))
redis.call('HSET', record, 'generation', generation, 'owner', owner, 'last', owner,
  'until', digits(now + lease))
redis.call('HDEL', record, 'wanted', 'saved')
remember(record, math.max(now + lease, tonumber(found[4]) or 0))
return {1, generation, redis.call('GET', checkpoint)}
"""
)

PEEK = "return redis.call('GET', KEYS[1])"

RENEW = (
    _MANY
    + """
-- KEYS: records. ARGV: lease, and of each claim generation and owner.
-- Answers: l(ost), f(orgotten), w(anted) or c(urrent).
local ends = now + tonumber(ARGV[1])
local answers = {}
for i, record in ipairs(KEYS) do
  local generation, owner = ARGV[2 * i], ARGV[2 * i + 1]
  local found = redis.call('HMGET', record, 'generation', 'owner', 'wanted', 'kept')
  local standing = standing_of(found, generation, owner)
  if standing == 'lost' then
    answers[i] = 'l'
  else
    if standing == 'forgotten' then
      recall(record, generation, owner)
      answers[i] = 'f'
    else
      answers[i] = found[3] and 'w' or 'c'
    end
    redis.call('HSET', record, 'until', digits(ends))
    remember(record, math.max(ends, tonumber(found[4]) or 0))
  end
end
return table.concat(answers)
"""
)

SAVE = (
    _MANY
    + """
-- KEYS: of each claim record and checkpoint. ARGV: ttl, number, and of each claim generation, owner
-- and bytes. Answers: l(ost) or c(urrent). A save that a later one has overtaken is left undone.
local ttl, number = tonumber(ARGV[1]), tonumber(ARGV[2])
local answers = {}
for i = 1, #KEYS / 2 do
  local record, checkpoint = KEYS[2 * i - 1], KEYS[2 * i]
  local generation, owner = ARGV[3 * i], ARGV[3 * i + 1]
  local found = redis.call('HMGET', record, 'generation', 'owner', 'until', 'saved')
  local standing = standing_of(found, generation, owner)
  if standing == 'lost' then
    answers[i] = 'l'
  else
    local ends, saved = tonumber(found[3]) or 0, tonumber(found[4]) or 0
    if standing == 'forgotten' then
      recall(record, generation, owner)
      ends, saved = 0, 0
    end
    if saved <= number then
      redis.call('HSET', record, 'saved', digits(number), 'kept', digits(now + ttl))
      redis.call('SET', checkpoint, ARGV[3 * i + 2], 'PX', digits(ttl))
      remember(record, math.max(ends, now + ttl))
    end
    answers[i] = 'c'
  end
end
return table.concat(answers)
"""
)

RELEASE = (
    _MANY
    + """
-- KEYS: records. ARGV: of each claim generation and owner. Answers: l(ost) or c(urrent).
local answers = {}
for i, record in ipairs(KEYS) do
  local generation, owner = ARGV[2 * i - 1], ARGV[2 * i]
  local found = redis.call('HMGET', record, 'generation', 'owner', 'kept')
  if standing_of(found, generation, owner) == 'lost' then
    answers[i] = 'l'
  else
    redis.call('HSET', record, 'generation', generation, 'last', owner)
    redis.call('HDEL', record, 'owner', 'until', 'wanted', 'saved')
    remember(record, tonumber(found[3]) or 0)
    answers[i] = 'c'
  end
end
return table.concat(answers)
"""
)
