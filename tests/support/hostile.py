"""What hostile and clumsy clients say: messages, client ids and HTTP requests, all of them bad."""

import json
from collections.abc import Iterator
from urllib.parse import quote as percent

CANARY = "c4n4ry"
"""In many of the messages; whatever holds it was said by a client."""

DEEP = 30_000
MAX_FLOAT = 1.7976931348623157e308


def subscribe(*stocks: object, **fields: object) -> str:
    return json.dumps({"action": "subscribe", "stocks": stocks, **fields})


def wrong_types() -> Iterator[str]:
    """Every field with every type that it cannot have."""
    values: dict[str, list[object]] = {
        "action": [None, True, 1, -1, 1.5, [], ["ping"], {}, {"action": "ping"}],
        "stocks": [True, 1, 3045, 1.5, "SBIN", "", {}, {"0": "SBIN"}],
        "tokens": [False, 3045, "3045", {}],
        "request_id": [True, 1.5, 1e300, [], [1], {}, {"a": 1}, "x" * 129, 2**63, -(2**63) - 1],
        "timestamp": [False, [], {}, "x" * 129, 2**63, 2**64, 10**300],
    }
    for field, bad in values.items():
        for value in bad:
            yield json.dumps({"action": "subscribe", "stocks": ["SBIN"], field: value})
    for item in (None, True, 1.5, 3045.0, 1e300, [], ["SBIN"], {}, {"symbol": "SBIN"}):
        yield subscribe("SBIN", item)


NOT_JSON = [
    "", " ", "\n", "\0", "{", "}", "[", '"', "'", ",", ":", "{]", "[}", "{,}", '{"action"}',
    "{a:1}", '{"action":}', '{"action":"ping"', '{"action":"ping",}', '{"action":"ping"}}',
    '{"action":"ping"}{"action":"ping"}', '{"action":"ping"} x', "{'action':'ping'}", "True",
    "None", "undefined", "NaN", "Infinity", "-Infinity", "-", "+1", ".5", "1.", "01", "0x10", "1e",
    "1_000", '{"action":"ping","timestamp":NaN}', '{"action":"ping","timestamp":Infinity}',
    '{"action":"ping","timestamp":-Infinity}', '{"action":"ping","timestamp":01}',
    '{"action":"ping","x":"\n"}', '{"action":"ping","x":"\0"}', '{"action":"pi\tng"}',
    '{"action":"ping","x":"\x7f\x01"}', '{"action":"\\x70ing"}', '{"action":"\\u00"}',
    '\ufeff{"action":"ping"}', '{"action":"ping"}\ufeff', '\u2028{"action":"ping"}', "\\", "//",
    '/* hi */{"action":"ping"}', "<xml/>", "action=ping", "ping", "subscribe SBIN",
    "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "{{{{{{", "]]]]]]", '"\\ud800"', "\ufffd", "\U0010ffff",
    '{"action":"\\ud800"}', '{"action":"ping","request_id":"\\udfff"}',
    '{"action":"subscribe","stocks":["\\ud83d"]}', '{"action":"ping","\\udc00":1}',
    '{"action":"subscribe","stocks":["SBIN","\\ud800\\ud800"]}',
]  # fmt: skip

NOT_REQUESTS = [
    "null", "true", "false", "0", "-0", "1e3", "1.5", "[]", "[1]", "{}", '"ping"', '""', "[[]]",
    '["subscribe","SBIN"]', '[{"action":"ping"}]', '{"a":1}', '{"":""}', '{"Action":"ping"}',
    '{"ACTION":"ping"}', '{"action ":"ping"}', '{"act\\u0069on":1}', '{"type":"ping"}',
    '{"action":""}', '{"action":" ping"}', '{"action":"ping "}', '{"action":"PING"}',
    '{"action":"ping\\u0000"}', '{"action":"рing"}', '{"action":"ｐｉｎｇ"}',
    '{"action":"p\\u200bing"}', '{"action":"__class__"}', '{"action":"_subscribe"}',
    '{"action":"{action}"}', '{"action":"{0.__class__}"}', '{"action":"%s%n%x"}',
    '{"action":"${jndi:ldap://x/a}"}', '{"action":"<script>alert(1)</script>"}',
    '{"action":"\'; DROP TABLE clients; --"}',
    '{"action":"../../etc/passwd"}', '{"action":"constructor","__proto__":{"x":1}}',
    json.dumps({"action": "x" * 60_000}), json.dumps({"action": "\x1b[2J" + CANARY}),
    json.dumps({"action": "\r\n2025-09-04T00:00:00Z ERROR odin: forged " + CANARY}),
    json.dumps({"action": "\u202egnip\u202c"}), json.dumps({"action": "\x85\u2028\u2029\x9b31m"}),
    json.dumps({"action": "é" * 30_000}, ensure_ascii=False),
    json.dumps({"action": "💣" * 16_000}, ensure_ascii=False),
    '{"action":"subscribe"}', '{"action":"subscribe","stocks":null}',
    '{"action":"subscribe","stocks":[]}', '{"action":"subscribe","stocks":[],"tokens":[]}',
    '{"action":"subscribe","stock":["SBIN"]}', '{"action":"subscribe","Stocks":["SBIN"]}',
    '{"action":"unsubscribe"}', '{"action":"unsubscribe","stocks":[]}',
    '{"action":"subscribe","stocks":["SBIN"],"stocks":[]}',
    '{"action":"subscribe","action":"dance","stocks":["SBIN"]}',
    '{"action":"ping","action":1}',
]  # fmt: skip

HUGE = [
    "[" * DEEP, "[" * DEEP + "]" * DEEP, '{"a":' * 10_000, '{"a":' * 5000 + "1" + "}" * 5000,
    '{"action":' + "[" * DEEP + "]" * DEEP + "}",
    '{"action":"ping","x":' + "[" * DEEP + "]" * DEEP + "}",
    '{"action":"ping","x":' + '{"a":' * 8000 + "1" + "}" * 8000 + "}",
    '{"action":"subscribe","stocks":' + "[" * DEEP + "]" * DEEP + "}",
    '{"action":"subscribe","stocks":[' + "[" * DEEP + "]" * DEEP + "]}",
    '{"action":"ping","timestamp":' + "9" * 5000 + "}",
    '{"action":"ping","timestamp":-' + "9" * 60_000 + "}",
    '{"action":"ping","request_id":' + "9" * 400 + "}",
    '{"action":"ping","timestamp":1e400}', '{"action":"ping","timestamp":-1e999999999}',
    '{"action":"ping","timestamp":' + "1" * 400 + ".5}",
    '{"action":"subscribe","stocks":[' + "9" * 60_000 + "]}",
    '{"action":"subscribe","stocks":[1e400]}', '{"action":"subscribe","stocks":[1E5000]}',
    subscribe(*["SBIN"] * 1001), subscribe(*range(1001)), subscribe(*[""] * 15_000),
    json.dumps({"action": "subscribe", "stocks": ["SBIN"] * 600, "tokens": [3045] * 600}),
    '{"action":"unsubscribe","stocks":[' + ",".join(["0"] * 30_000) + "]}",
    "x" * 65_536, "[" + "1," * 32_767 + "]", '"' + "y" * 65_534 + '"', " " * 65_536,
    '{"action":"dance"' + " " * 65_518 + "}", "{" + '"a":1,' * 10_000 + '"a":1}',
]  # fmt: skip

BAD_NAMES: list[object] = [
    "", " ", "\t", "\0", "SBIN\0", "SB\nIN", "\x1b[31mSBIN", "SBIN\x7f", "SB\x08IN", "\u200bSBIN",
    "SBIN\u200d", "\u202eNIBS", "\ufeffSBIN", "SB\u00adIN", "SB\u2028IN", "\x85" + CANARY, "x" * 65,
    "x" * 60_000, "ЅBIN", "SВIN", "SBΙN", "ＳＢＩＮ", "𝐒𝐁𝐈𝐍", "ſBIN", "SBI\u0274", "S\u0301BIN",
    "ßBIN", "₃₀₄₅", "٣٠٤٥", "３０４５", "३०४५", "3045\u20e3", "³045", "+3045", "-3045", "3e3",
    "0x0BE5", "30_45", "3,045", "3045 2885", "SBIN,TCS", "SBIN;TCS", "SBIN TCS", '["SBIN"]', "null",
    "None", "undefined", "NaN", "inf", "true", "*", "%", "_", "?", "SB%", "SBI_", "S*", "[A-Z]*",
    "' OR '1'='1", "'; DROP TABLE subscriptions; --", '" OR 1=1 --', "1); DELETE FROM clients; --",
    "SBIN' UNION SELECT client_id FROM clients --", "\\'; SELECT 1", "/etc/passwd", "..", ".", "/",
    "../../../etc/passwd", "..\\..\\windows\\win.ini", "C:\\boot.ini", "file:///etc/passwd",
    "~/.ssh", "http://169.254.169.254/", "CON", "NUL.txt", "$(reboot)", "`id`", "; ls", "| cat",
    "&& true", "{{7*7}}", "${7*7}", "%s%s%s%n", "{0}", "{stock}", "{stock.__class__}",
    "<img src=x onerror=1>", "&lt;b&gt;", "=cmd|' /C calc'!A0", "@SUM(1)", "__proto__",
    "constructor", "toString", "__class__", "XYZ:SBIN", ":SBIN", "NSE:", ":", "::", "NSE:NSE:SBIN",
    "NSE:BSE:SBIN", "SBIN:NSE", "NSE SBIN", "SBIN (XYZ)", "SBIN ()", "SBIN (", ") (", "(NSE)",
    "SBIN.", "SBIN.XYZ", ".NSE", "SBIN-", "-EQ",
    "SBIN-XX", "1_", "_3045", "9_3045", "1_1_3045", "1_٣", "00000000000000000000000000000000000009",
    "9" * 18, "9" * 19, "9" * 64, "9" * 65, -1, -3045, 0, -0, 2**31, 2**53 + 1, 2**63 - 1, 2**63,
    -(2**63), 2**64, 10**18, 10**200, -(10**200), f"\r\nERROR forged {CANARY}", f"{CANARY}\x9b31m",
    "💣", "👩‍👩‍👧‍👦", "ﷺ" * 20, "a" + "\u0300" * 60, "\U000e0001" * 10, "\U0010ffff", "\ufffe", "i̇",
]  # fmt: skip

CORPUS: dict[str, list[str]] = {
    "wrong types": list(wrong_types()),
    "not json": NOT_JSON,
    "not requests": NOT_REQUESTS,
    "huge": HUGE,
    "bad names to subscribe": [subscribe(name) for name in BAD_NAMES],
    "bad names raw": [
        json.dumps({"action": "subscribe", "tokens": [name]}, ensure_ascii=False)
        for name in BAD_NAMES
        if "\\u" not in json.dumps(name) or json.dumps(name, ensure_ascii=False).isprintable()
    ],
    "bad names to unsubscribe": [
        json.dumps({"action": "unsubscribe", "stocks": [name]}) for name in BAD_NAMES
    ],
    "all bad names at once": [subscribe(*(n for n in BAD_NAMES if len(str(n)) < 200))],
}

BAD_IDS = [
    "%20", "a%20b", "%20me", "me%20", "+", "a+b", "%09", "%0a", "%0d%0aSet-Cookie:x=1", "%00",
    "me%00", "%1b[31m", "%7f", "%c2%85", "%e2%80%8b", "%e2%80%ae", "%ef%bb%bf", "%ff", "%ff%fe",
    "%c0%af", "%ed%a0%80", "%", "%%", "%zz", "%2", "a/b", "a%2Fb", "..%2F..%2Fetc", "a%5Cb",
    "a%3Fb", "a%23b", "a%26b", "a%3Db", "a;b", "a,b", "a|b", "a*b", "a!b", "a'b", "a%22b",
    "%3Cscript%3E", "a(b)", "a[b]", "{a}", "$a",
    "a~b", "a^b", "a`b", "%27%20OR%20%271%27=%271", "x" * 129, "x" * 5000, "%D0%B0",
    "%EF%BD%81dmin", "%C4%B1d", "s%C5%BF", "%E2%82%83", "%D9%A3", "%F0%9F%92%A3",
    "me&client_id=you", "me&client_id=me", "&client_id=me", "me&client_id=", "=me",
    percent(f"{CANARY}\n"), percent(f"ERROR forged {CANARY}"),
    percent("💣" * 40), percent("%6d%65"), "%256d",
]  # fmt: skip

UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
BAD_HTTP = [
    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "\0\0\0\0\r\n\r\n", "\r\n\r\n\r\n x\r\n\r\n", "SSH-2.0-x\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET\r\n\r\n",
    "GET / HTTP/9.9\r\nHost: x\r\n\r\n", "get / http/1.1\r\nHost: x\r\n\r\n",
    f"G{CANARY}T / HTTP/1.1\r\nHost: x\r\n\r\n", "GET /\x1b[31m HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /enhanced-stream?client_id=a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /enhanced-stream?client_id=\xe9 HTTP/1.1\r\nHost: x\r\n\r\n",
    f"GET /{'a' * 9000} HTTP/1.1\r\nHost: x\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: x\r\nX: {'a' * 9000}\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\n" + "".join(f"X{n}: y\r\n" for n in range(200)) + "\r\n",
    "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nA\0B: y\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n", "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\n\r\n",
    "CONNECT evil:1 HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET //evil/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", "GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    f"POST /enhanced-stream HTTP/1.1\r\nHost: x\r\n{UPGRADE}{KEY}\r\n",
    f"GET /enhanced-stream/ HTTP/1.1\r\nHost: x\r\n{UPGRADE}{KEY}\r\n",
    f"GET /enhanced-stream HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n",
    f"GET /enhanced-stream HTTP/1.1\r\nHost: x\r\n{UPGRADE}Sec-WebSocket-Key: short\r\n\r\n",
    f"GET /enhanced-stream HTTP/1.1\r\nHost: x\r\n{UPGRADE}Sec-WebSocket-Key: é\r\n\r\n",
    f"GET /enhanced-stream HTTP/1.1\r\nHost: x\r\n{UPGRADE.replace('13', '13, 8')}{KEY}\r\n",
    f"GET /enhanced-stream HTTP/1.1\r\nHost: x\r\n{UPGRADE.replace('Connection', 'X')}{KEY}\r\n",
    f"GET /enhanced-stream HTTP/1.1\r\nHost: x\r\nOrigin: null\r\n{UPGRADE}{KEY}\r\n",
    f"GET /enhanced-stream HTTP/1.1\r\nHost: x\r\nOrigin: http://[::1\r\n{UPGRADE}{KEY}\r\n",
    f"GET /enhanced-stream HTTP/1.1\r\nHost: x\r\nOrigin: \xff\xfe\r\n{UPGRADE}{KEY}\r\n",
    f"GET /enhanced-stream HTTP/1.1\r\nHost: [::1\r\nOrigin: http://x\r\n{UPGRADE}{KEY}\r\n",
    f"GET /enhanced-stream HTTP/1.1\r\nHost: a]b\r\nOrigin: http://localhost\r\n{UPGRADE}{KEY}\r\n",
    "GET /nowhere HTTP/1.1\r\nHost: [\r\nOrigin: http://x\r\n\r\n",
    f"GET /enhanced-stream HTTP/1.1\r\nHost: \x80\xff\r\nOrigin: http://x\r\n{UPGRADE}{KEY}\r\n",
]  # fmt: skip
