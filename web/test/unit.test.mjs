// The same tests with node's own runner: node --test web/test/unit.test.mjs
import test from 'node:test';
import { tests } from './unit.js';

for (const [name, body] of Object.entries(tests)) test(name, body);
