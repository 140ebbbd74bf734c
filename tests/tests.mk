# The gates. Each one prints how much it looked at and fails when that is nothing.
.PHONY: unit

# one unit-test program, or all: make unit, make unit-test_ltx
unit: $(UNIT)
	$(Q)n=0; for t in $(UNIT); do \
		echo "== $$t"; "$$t" || exit 1; n=$$((n+1)); done; \
	echo "unit: $$n programs"; test $$n -gt 0
unit-%: $(OUT)/unit/%
	$<

# How fast the formats are, by one core.
.PHONY: bench-format
bench-format: $(OUT)/bench/bench_format
	$<
$(OUT)/bench/%: $(OUT)/tests/bench/%.o $(COMMON_A)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(call link,$^,$@)
