"""What a system call filter decides, by reading its instructions one after the other: a reference for the tests."""

from __future__ import annotations

import struct

LD_WORD, AND, JEQ, JGE, JUMP, RET = 0x20, 0x54, 0x15, 0x35, 0x05, 0x06


def decide(program: bytes, number: int, architecture: int, arguments: tuple[int, ...] = ()) -> int:
    """The action, as the kernel would take it. AssertionError for what the kernel would refuse to load."""
    filled = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *(one & (1 << 64) - 1 for one in filled))
    code = [struct.unpack_from("=HBBI", program, 8 * index) for index in range(len(program) // 8)]
    at = accumulator = 0
    while True:
        assert at < len(code), "a jump leaves the program"
        operation, if_true, if_false, operand = code[at]
        at += 1
        if operation == LD_WORD:
            assert operand % 4 == 0
            assert operand + 4 <= len(data)
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif operation == AND:
            accumulator &= operand
        elif operation == JEQ:
            at += if_true if accumulator == operand else if_false
        elif operation == JGE:
            at += if_true if accumulator >= operand else if_false
        elif operation == JUMP:
            at += operand
        else:
            assert operation == RET, f"unknown instruction {operation:#x}"
            return int(operand)
