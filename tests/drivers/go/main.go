// main DATABASE LEDGER - commits a row at a time; what was committed goes into the ledger, synced. driver.go, which
// is made beside it, has the import of the driver and its name.
package main

import (
	"database/sql"
	"fmt"
	"os"
	"strings"
	"time"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	db, err := sql.Open(driver, "file:"+os.Args[1])
	must(err)
	db.SetMaxOpenConns(1)
	var mode, version string
	_, err = db.Exec("pragma busy_timeout=5000")
	must(err)
	must(db.QueryRow("pragma journal_mode=wal").Scan(&mode))
	must(db.QueryRow("select sqlite_version()").Scan(&version))
	fmt.Println("SQLite", version, mode)
	_, err = db.Exec("create table if not exists t(id integer primary key, x text)")
	must(err)
	var n int64
	must(db.QueryRow("select coalesce(max(id), 0) from t").Scan(&n))
	f, err := os.OpenFile(os.Args[2], os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	must(err)
	for {
		n++
		_, err = db.Exec("insert into t values(?, ?)", n, strings.Repeat("x", 100))
		must(err)
		_, err = fmt.Fprintln(f, n)
		must(err)
		must(f.Sync())
		time.Sleep(5 * time.Millisecond)
	}
}
