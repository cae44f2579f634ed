"""One file an operation of jogak.ops: its CASES, the inputs on which its forms must agree."""
