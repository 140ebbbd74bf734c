// main DATABASE LEDGER - commits a row at a time; what was committed goes into the ledger, synced.
use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let db = rusqlite::Connection::open(&args[1])?;
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    let mode: String = db.query_row("pragma journal_mode=wal", [], |r| r.get(0))?;
    println!("SQLite {} {}", rusqlite::version(), mode);
    db.execute_batch("create table if not exists t(id integer primary key, x text)")?;
    let mut n: i64 = db.query_row("select coalesce(max(id), 0) from t", [], |r| r.get(0))?;
    let mut f = std::fs::OpenOptions::new().create(true).append(true).open(&args[2])?;
    loop {
        n += 1;
        db.execute("insert into t values(?, ?)", (n, "x".repeat(100)))?;
        writeln!(f, "{}", n)?;
        f.sync_all()?;
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
