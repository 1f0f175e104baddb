#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a C file with the text of a file as a char array: embed.py INPUT OUTPUT SYMBOL"""

import json
import sys

source, target, symbol = sys.argv[1:]
with open(source, encoding="utf-8") as f:
    text = json.dumps(json.load(f), separators=(",", ":"))
data = text.encode() + b"\0"
with open(target, "w", encoding="ascii") as f:
    f.write(f"extern const char {symbol}[];\nconst char {symbol}[] = {{\n")
    for i in range(0, len(data), 24):
        f.write(",".join(str(b) for b in data[i:i + 24]) + ",\n")
    f.write("};\n")
