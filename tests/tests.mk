# The gates. Each one prints how much it looked at and fails when that is nothing.
.PHONY: unit

# one unit-test program, or all: make unit, make unit-test_ltx
unit: $(UNIT)
	$(Q)n=0; for t in $(UNIT); do \
		echo "== $$t"; "$$t" || exit 1; n=$$((n+1)); done; \
	echo "unit: $$n programs"; test $$n -gt 0
unit-%: $(OUT)/unit/%
	$<
