# Compares two serial logs: awk -v controls="A B" -v others="C" -f judge.awk PATCHED-LOG STOCK-LOG prints a table, and
# gives 0 if everything passed on the patched kernel and, on the stock kernel, failed what has to fail there:
#   - every check of a control program that is named "trap ...", or the program had ended by then, with a failed one;
#   - all else has passed: raw comes to its end on both kernels, and the programs that are no controls pass on both.

function expected(fine) {
    if (!fine) {
        unexpected++
    }
    return fine ? "" : "   <-- unexpected"
}

# The kernel that a line is about, by the file it is in: 1 patched, 2 stock.
FNR == 1 { kernel++; program = "" }
{ sub(/\r$/, "") }

/^init: begin / { program = $3; next }
/^init: end / { end[kernel, $3] = $4 " " $5; seconds[kernel, $3] = $7; program = ""; next }
/^init: all programs have run$/ { complete[kernel] = 1 }
/^init: mount \/huge-noautofill hugetlbfs .*noautofill: / { sub(/.*: /, ""); option[kernel] = $0 }

# A check that is made many times has passed when none of them failed.
program != "" && /^check .*: (passed$|failed: )/ {
    failed = match($0, /: failed: /)
    if (!failed) {
        match($0, /: passed$/)
    }
    name = substr($0, 7, RSTART - 7)
    if (!((program, name) in known)) {
        known[program, name] = 1
        checks[program, ++count[program]] = name
    }
    if (failed) {
        why[kernel, program, name] = substr($0, RSTART + 10)
        verdict[kernel, program, name] = "failed"
    } else if (verdict[kernel, program, name] == "") {
        verdict[kernel, program, name] = "passed"
    }
}

function judge(program, control,    i, name, patched, stock, trap, traps, fine) {
    for (i = 1; i <= count[program]; i++) {
        name = checks[program, i]
        patched = verdict[1, program, name]
        stock = verdict[2, program, name]
        trap = control && name ~ /^trap /
        fine = patched == "passed"
        if (trap) {
            fine = fine && (stock == "failed" || (stock == "" && program != "raw"))
            traps += stock == "failed"
        } else {
            fine = fine && (stock == "passed" || (control && program != "raw"))
        }
        row(program ": " name, patched, stock, expected(fine))
        reason("patched", why[1, program, name])
        reason("stock", why[2, program, name])
    }
    patched = end[1, program]
    stock = end[2, program]
    fine = patched == "exit 0"
    if (control) {
        # Some check must have failed by its name: to be unable to start, or to skip, is no failure of that kind.
        fine = fine && traps > 0 && stock ~ /^exit / && stock !~ /^exit (0|77|126)$/
    } else {
        fine = fine && stock == "exit 0"
    }
    row(program ": ended with", took(patched, seconds[1, program]), took(stock, seconds[2, program]), expected(fine))
}

function took(how, time) {
    return how == "" ? "" : how ", " time " s"
}

function row(what, patched, stock, remark) {
    patched = patched == "" ? "not reached" : patched
    stock = stock == "" ? "not reached" : stock
    printf "%-86s %-16s %s%s\n", what, patched, stock, remark
}

function reason(kernel, text) {
    if (text != "") {
        printf "    %s: %s\n", kernel, text
    }
}

END {
    row("check", "patched kernel", "stock kernel", "")
    row("the kernel has booted, and every program was run", complete[1] ? "yes" : "no", complete[2] ? "yes" : "no",
        expected(complete[1] && complete[2]))
    row("mount -o noautofill", option[1], option[2], expected(option[1] == "done" && option[2] == "Invalid argument"))
    programs = split(controls, list, " ")
    for (i = 1; i <= programs; i++) {
        judge(list[i], 1)
    }
    programs = split(others, list, " ")
    for (i = 1; i <= programs; i++) {
        judge(list[i], 0)
    }
    print unexpected ? "FAILED: " unexpected " result(s) are not as they must be" : \
        "passed: all on the patched kernel, and without the option every trap check fails"
    exit unexpected != 0
}
