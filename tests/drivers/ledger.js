// ledger.js DRIVER DATABASE LEDGER - commits a row at a time; what was committed goes into the ledger, synced.
const fs = require('fs');
const [driver, path, ledger] = process.argv.slice(2);
const Database = require(driver);
const db = new Database(path, { timeout: 5000 });
const mode = Object.values(db.prepare('pragma journal_mode=wal').get())[0];
const version = db.prepare('select sqlite_version() as v').get().v;
console.log(`SQLite ${version} ${mode}`);
db.exec('create table if not exists t(id integer primary key, x text)');
let n = db.prepare('select coalesce(max(id), 0) as n from t').get().n;
const insert = db.prepare('insert into t values(?, ?)');
const f = fs.openSync(ledger, 'a');
setInterval(() => {
  n++;
  insert.run(n, 'x'.repeat(100));
  fs.writeSync(f, `${n}\n`);
  fs.fsyncSync(f);
}, 5);
