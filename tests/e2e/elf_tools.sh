#!/usr/bin/env bash
# Rewritten files must stay ELF files to everybody else: each tool below works on them as on the original, and what it writes still runs.
# A tool that fails, or whose output fails, on the original file too (llvm-strip on a static file, patchelf on a static one) is not held against us.
. "$(dirname "$0")/../support/e2e.sh" g++ strip objcopy readelf llvm-strip-14 eu-strip eu-elflint patchelf

cat >p.cc <<'EOF'
#include <cstdio>
#include <stdexcept>
#include <vector>
static char zeros[3000000];
__attribute__((noinline)) int f(int x) { if (x > 5) throw std::runtime_error("x"); return x; }
__attribute__((noinline)) int g(int x) {
	switch (x) { case 0: return 3; case 1: return 9; case 2: return f(x); case 3: return 1; case 4: return f(x + 1); case 5: return 4; }
	return f(x);
}
int main(int c, char **) {
	std::vector<int> a;
	long sum = 0;
	zeros[2000000] = c;
	try { for (int i = 0; i < 10; i++) a.push_back(g(i)); } catch (std::exception &e) {
		for (int x : a) sum = sum * 7 + x;
		printf("%s %ld %d\n", e.what(), sum, zeros[2000000]);
		return 7;
	}
	return 0;
}
EOF

run() { # FILE -> output and status in one word
	./"$1" 2>&1
	echo "status $?"
}
apply() { # TOOL FILE: the file, changed in place
	case $1 in
	"eu-strip") eu-strip "$2" -o "$2.new" && mv "$2.new" "$2" ;;
	"objcopy") objcopy "$2" "$2.new" && mv "$2.new" "$2" ;;
	"split") objcopy --only-keep-debug "$2" "$2.dbg" && strip -g "$2" && objcopy --add-gnu-debuglink="$2.dbg" "$2" ;;
	"eu-split") rm -f "$2.dbg" && eu-strip -g -f "$2.dbg" "$2" -o "$2.new" && eu-unstrip "$2.new" "$2.dbg" -o "$2" ;;
	"twice") patchelf --set-rpath /tmp "$2" && strip "$2" && patchelf --add-needed libm.so.6 "$2" ;;
	*) $1 "$2" ;;
	esac >/dev/null 2>&1
}
ln -s /lib64/ld-linux-x86-64.so.2 "$dir/another-loader-with-a-long-name"
tools=("strip" "strip -g" "llvm-strip-14" "llvm-strip-14 -g" "eu-strip" "objcopy" "patchelf --set-rpath /tmp"
	"patchelf --add-needed libm.so.6" "patchelf --set-interpreter $dir/another-loader-with-a-long-name" "split" "eu-split" "twice")

# what is wrong with a file; sections and symbols have other numbers in ours
lint() { eu-elflint --gnu-ld "$1" 2>&1 | sed 's/^section \[ *[0-9]*\]/section/; s/symbol [0-9]*/symbol/'; }

check_kind() { # NAME FLAGS...
	local name=$1 want tool
	shift
	g++ -O2 "$@" p.cc -o in 2>/dev/null || { echo "note: $name does not link here"; return; }
	want=$(run in)
	"$OPTVM" rewrite -q in --uniform -f -o out || { fail "$name: rewrite"; return; }
	[ "$(run out)" = "$want" ] || fail "$name: output differs: $(run out)"
	readelf -a out >listing 2>warnings || fail "$name: readelf fails"
	[ -s warnings ] && fail "$name: readelf: $(head -1 warnings)"
	grep -q 'note.optvm' listing || fail "$name: no note"
	grep -q 'GNU_STACK' listing || fail "$name: PT_GNU_STACK is gone"
	lint in >before
	lint out | grep -v "owner name 'optvm'" >after
	grep -vxFf before after | grep -v 'No errors' | sed 's/^/FAIL elflint: /' >new
	[ -s new ] && { cat new; fail "$name: eu-elflint"; }
	"$OPTVM" rewrite -q out --uniform -f -o again && cmp out again || fail "$name: rewritten twice is not rewritten once"
	for tool in "${tools[@]}"; do
		cp in plain
		apply "$tool" plain && [ "$(run plain)" = "$want" ] || continue # not our fault
		cp out tooled
		apply "$tool" tooled || { fail "$name: $tool fails"; continue; }
		[ "$(run tooled)" = "$want" ] || fail "$name: crashes or differs after $tool: $(run tooled)"
	done
}

check_kind pie
check_kind no-pie -no-pie
check_kind static -static
check_kind static-pie -static-pie
check_kind stripped -s
check_kind stripped-no-pie -s -no-pie
check_kind no-build-id -Wl,--build-id=none
check_kind emit-relocs -Wl,-q
check_kind lld -fuse-ld=lld
check_kind lld-no-pie -fuse-ld=lld -no-pie
check_kind gold -fuse-ld=gold
check_kind mold -fuse-ld=mold
check_kind mold-no-pie -fuse-ld=mold -no-pie

# a shared library: only a build-id note, no PT_GNU_PROPERTY
cat >l.c <<'EOF'
int twice(int x) { int s = 0; for (int i = 0; i < x; i++) s += i & 1 ? 2 : 2; return s; }
EOF
echo 'int twice(int); int main(void) { return twice(11); }' >u.c
gcc -O2 -shared -fPIC l.c -o libl.so && gcc u.c -o user -L. -ll -Wl,-rpath,"$dir" || fail "library does not build"
cp libl.so original.so
"$OPTVM" rewrite -q original.so --uniform -f -o libl.so || fail "library: rewrite"
./user
[ $? = 22 ] || fail "library: wrong result"
for tool in "${tools[@]:0:6}"; do
	cp libl.so keep.so
	apply "$tool" libl.so || fail "library: $tool"
	./user
	[ $? = 22 ] || fail "library: wrong result after $tool"
	cp keep.so libl.so
done

loaded() { # FILE: its bytes in memory but the ELF header's
	python3 - "$1" <<-'EOF'
		import struct, sys
		data = open(sys.argv[1], 'rb').read()
		at, = struct.unpack_from('<Q', data, 32)
		size, n = struct.unpack_from('<HH', data, 54)
		for i in range(n):
		    kind, _, off, va, _, filesz = struct.unpack_from('<IIQQQQ', data, at + i * size)
		    if kind == 1:
		        print(va, data[max(off, 64):off + filesz].hex())
	EOF
}

# libraries without any note: what .dynamic names is moved, or a gap is used; tools that change no loaded byte of the original (they
# clear gaps, number sections anew) leave what verify proves
check_noteless() { # NAME: original.so is one
	local name=$1
	"$OPTVM" rewrite -q original.so --uniform -f -o libl.so || { fail "$name: rewrite"; return; }
	"$OPTVM" verify -q original.so libl.so || fail "$name: verify"
	rm -f undone && "$OPTVM" rewrite -q --undo libl.so -o undone && cmp original.so undone || fail "$name: undo"
	./user
	[ $? = 22 ] || fail "$name: wrong result"
	readelf -a libl.so 2>warnings >/dev/null
	[ -s warnings ] && { cat warnings; fail "$name: readelf"; }
	eu-elflint --gnu-ld original.so >before 2>&1
	eu-elflint --gnu-ld libl.so 2>&1 | grep -vE "owner name 'optvm'|No errors" | grep -vxFf before && fail "$name: eu-elflint"
	cp libl.so keep.so
	for tool in "${tools[@]}"; do
		cp original.so libl.so
		loaded libl.so >before
		apply "$tool" libl.so || continue # not our fault
		loaded libl.so >after
		./user 2>/dev/null
		[ $? = 22 ] || continue # not our fault
		cp keep.so libl.so
		apply "$tool" libl.so || fail "$name: $tool"
		./user
		[ $? = 22 ] || fail "$name: wrong result after $tool"
		! cmp -s before after || "$OPTVM" verify -q original.so libl.so || fail "$name: verify after $tool"
	done
}
plain=(gcc -O2 -shared -fPIC l.c -o original.so -Wl,--build-id=none -fcf-protection=none -Wa,-mx86-used-note=no)
for flags in -Wl,--hash-style=gnu -Wl,--hash-style=sysv -Wl,--hash-style=both -fuse-ld=lld -fuse-ld=gold -fuse-ld=mold; do
	"${plain[@]}" $flags 2>/dev/null || { echo "note: $flags does not link here"; continue; }
	readelf -lW original.so | grep -qE 'NOTE|PROPERTY' && fail "no notes, $flags: has notes"
	check_noteless "no notes, $flags"
done
"${plain[@]}" && patchelf --set-rpath /some/where/that/is/long/enough/to/move/sections original.so && check_noteless "no notes, gap"

# a static program whose only program header to spare is PT_PHDR: no section headers, so no gap can be told
cat >s.S <<'EOF'
	.globl _start
	.type _start,@function
_start:	.cfi_startproc
	mov $0, %edi
	mov $6, %ecx
1:	add $7, %edi
	dec %ecx
	jnz 1b
	mov $60, %eax
	syscall
	.cfi_endproc
	.size _start,.-_start
	.section .note.GNU-stack,"",@progbits
EOF
for sections in kept gone; do
	gcc -nostdlib -static -no-pie -fuse-ld=lld -Wl,--build-id=none,--eh-frame-hdr -Wa,-mx86-used-note=no s.S -o in 2>/dev/null ||
		{ echo "note: lld does not link here"; break; }
	[ $sections = kept ] || llvm-objcopy-14 --strip-sections in || fail "llvm-objcopy"
	"$OPTVM" rewrite -q in --uniform -f -o out && "$OPTVM" verify -q in out && ./out
	[ $? = 42 ] || fail "static, sections $sections: rewrite, verify or run"
	[ "$(readelf -lW out 2>/dev/null | grep -c PHDR)" = "$([ $sections = kept ] && echo 1 || echo 0)" ] || fail "static, sections $sections: PT_PHDR"
	[ $sections = kept ] || continue
	for tool in "${tools[@]:0:4}"; do
		cp out tooled && apply "$tool" tooled
		./tooled
		[ $? = 42 ] || fail "static: wrong result after $tool"
	done
done

# owner, mode, time and attributes are the input's; capabilities and set-id bits are not
gcc -O2 u.c l.c -o owned
chmod 4750 owned && touch -d '2020-02-02 02:02:02.123456789' owned
[ "$(id -u)" = 0 ] && chown 12:34 owned && chmod 4750 owned
python3 -c 'import os; os.setxattr("owned", "user.kept", b"yes")' 2>/dev/null || echo "note: no attributes on this file system"
[ "$(id -u)" = 0 ] && touch -d '2020-02-02 02:02:02.123456789' owned
"$OPTVM" rewrite -q owned --uniform -f -o out && "$OPTVM" rewrite -q --undo out -f -o undone || fail "owned: rewrite"
for file in out undone; do
	[ "$(stat -c '%u:%g %Y %y' $file)" = "$(stat -c '%u:%g %Y %y' owned)" ] || fail "owned: $(stat -c '%u:%g %y' $file)"
	[ "$(stat -c %a $file)" = 750 ] || fail "owned: mode $(stat -c %a $file)"
	[ "$(python3 -c 'import os, sys; print(*os.listxattr(sys.argv[1]))' $file)" = "$(python3 -c 'import os; print(*os.listxattr("owned"))')" ] ||
		fail "owned: other attributes"
done
exit $bad
