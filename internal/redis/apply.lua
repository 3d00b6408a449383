-- Applies records of one origin's route partition and moves its position, or does nothing if the position is another.
--
--   KEYS[1] positions: hash, origin -> "next local generation floor"
--   KEYS[2] fences: hash, "origin gateway" -> what was declared down, the latest first: epoch 1-16, stamp 17-32, offset 33-48, and
--           so on for those before it of higher epochs. Older builds wrote the first epoch and stamp alone, or no stamp.
--   KEYS[3...] users: hash, "origin device" -> row (see row.go)
--   ARGV: origin, position expected ('' for none), position to store, floor, seconds to keep a user's key,
--         stamp below which rows are garbage, milliseconds that a claim and a fence count, then the records:
--     'c' place of the user's key in KEYS, device, stamp below which an older row is dead, row, gateway
--     'r' place of the user's key in KEYS, device, row
--     'd' gateway, epoch, stamp, stamp below which a fence is garbage, offset
--
-- Numbers are 16 hexadecimal digits, compared as text: Lua's own lose digits past 2^53. In a row: login 1-16,
-- offset 17-32, claimed 33-48, conn 49-64, epoch 65-80, flags 81, length of the platform 82-85, platform, gateway.
local origin, expected, position, floor = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ttl, garbage, life = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])

if (redis.call('HGET', KEYS[1], origin) or '') ~= expected then
  return 0
end

local none = '0000000000000000'

local function millis(stamp)
  return tonumber(string.sub(stamp, 1, 12), 16)
end

-- Whether a gateway's epoch is declared down at a stamp.
local function isDown(gateway, epoch, stamp)
  local fence = redis.call('HGET', KEYS[2], origin .. ' ' .. gateway) or none
  return epoch <= string.sub(fence, 1, 16)
    and (#fence < 32 or millis(string.sub(fence, 17, 32)) + life >= millis(stamp))
end

local function gateway(row)
  return string.sub(row, 86 + tonumber(string.sub(row, 82, 85), 16))
end

-- Whether a gateway_down that came after a row took it away.
local function isVoid(row)
  local epoch, fence = string.sub(row, 65, 80), redis.call('HGET', KEYS[2], origin .. ' ' .. gateway(row)) or ''
  if #fence < 48 then
    return isDown(gateway(row), epoch, string.sub(row, 33, 48))
  end
  for at = 1, #fence, 48 do
    if epoch <= string.sub(fence, at, at + 15) and string.sub(row, 17, 32) < string.sub(fence, at + 32, at + 47) then
      return true
    end
  end
  return false
end

local i = 8
while i <= #ARGV do
  local kind = ARGV[i]
  if kind == 'c' then
    local key, field = KEYS[tonumber(ARGV[i + 1])], origin .. ' ' .. ARGV[i + 2]
    local dead, row = ARGV[i + 3], ARGV[i + 4]
    if not isDown(ARGV[i + 5], string.sub(row, 65, 80), string.sub(row, 33, 48)) then
      local old = redis.call('HGET', key, field)
      if not old
        or string.sub(old, 33, 48) < dead
        or string.sub(old, 17, 32) < floor
        or isVoid(old)
        or string.sub(old, 1, 16) <= string.sub(row, 1, 16) then
        redis.call('HSET', key, field, row)
        redis.call('EXPIRE', key, ttl)
        if redis.call('HLEN', key) > 8 then
          local all = redis.call('HGETALL', key)
          for j = 1, #all, 2 do
            if string.sub(all[j + 1], 33, 48) < garbage then
              redis.call('HDEL', key, all[j])
            end
          end
        end
      end
    end
    i = i + 6
  elseif kind == 'r' then
    local key, field, row = KEYS[tonumber(ARGV[i + 1])], origin .. ' ' .. ARGV[i + 2], ARGV[i + 3]
    local old = redis.call('HGET', key, field)
    if old
      and string.sub(old, 1, 16) == string.sub(row, 1, 16)
      and string.sub(old, 49, 80) == string.sub(row, 49, 80)
      and gateway(old) == gateway(row) then
      redis.call('HDEL', key, field)
    end
    i = i + 4
  else
    local down, epoch, stamp, past, offset = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
    if not isDown(down, epoch, stamp) then
      local fence = redis.call('HGET', KEYS[2], origin .. ' ' .. down) or ''
      local all = epoch .. stamp .. offset
      for at = 1, math.min(#fence, 48 * 8), 48 do -- those of lower epochs took away less, and before
        local before = string.sub(fence, at, at + 47)
        if #before == 48 and string.sub(before, 1, 16) > epoch then
          all = all .. before
        end
      end
      redis.call('HSET', KEYS[2], origin .. ' ' .. down, all)
    end
    if redis.call('HLEN', KEYS[2]) > 64 then
      local all = redis.call('HGETALL', KEYS[2])
      for j = 1, #all, 2 do
        if #all[j + 1] == 16 then
          redis.call('HSET', KEYS[2], all[j], all[j + 1] .. stamp)
        elseif string.sub(all[j + 1], 17, 32) < past then
          redis.call('HDEL', KEYS[2], all[j])
        end
      end
    end
    i = i + 6
  end
end

redis.call('HSET', KEYS[1], origin, position)
return 1
