/* Ledger DATABASE LEDGER - commits a row at a time; what was committed goes into the ledger, synced. */
import java.io.FileOutputStream;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.Statement;

public class Ledger {
    static String value(Statement s, String sql) throws Exception {
        try (ResultSet r = s.executeQuery(sql)) {
            r.next();
            return r.getString(1);
        }
    }

    public static void main(String[] args) throws Exception {
        try (Connection db = DriverManager.getConnection("jdbc:sqlite:" + args[0]);
                Statement s = db.createStatement();
                FileOutputStream f = new FileOutputStream(args[1], true)) {
            s.execute("pragma busy_timeout=5000");
            String mode = value(s, "pragma journal_mode=wal");
            System.out.println("SQLite " + value(s, "select sqlite_version()") + " " + mode);
            s.execute("create table if not exists t(id integer primary key, x text)");
            long n = Long.parseLong(value(s, "select coalesce(max(id), 0) from t"));
            PreparedStatement insert = db.prepareStatement("insert into t values(?, ?)");
            for (;;) {
                n++;
                insert.setLong(1, n);
                insert.setString(2, "x".repeat(100));
                insert.executeUpdate();
                f.write((n + "\n").getBytes());
                f.getFD().sync();
                Thread.sleep(5);
            }
        }
    }
}
