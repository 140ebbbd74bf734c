# packages, install, documentation (filled by packaging)
