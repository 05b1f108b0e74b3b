#!/usr/bin/env bash
# Exceptions of other languages than C++: each has a personality routine of its own, and each reads exception tables in its own way.
# Thrown through copied frames, caught in them, cleaned up on the way: same output and status as the original.
set -u
: "${OPTVM:?path of the tool}"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
bad=0 n=0

cat >c.c <<'EOF'
#include <stdio.h>
#include <stdlib.h>
#include <unwind.h>
static struct _Unwind_Exception exception;
static void bye(int *n) { printf("cleanup %d\n", *n); }
static _Unwind_Reason_Code stop(int version, _Unwind_Action action, _Unwind_Exception_Class class, struct _Unwind_Exception *e,
				struct _Unwind_Context *context, void *arg)
{
	if (!(action & _UA_END_OF_STACK))
		return _URC_NO_REASON;
	puts("end of stack");
	exit(3);
}
__attribute__((noinline)) static void inner(int i)
{
	int n __attribute__((cleanup(bye))) = i;
	if (i > 2)
		_Unwind_ForcedUnwind(&exception, stop, NULL);
	inner(i + 1);
	asm volatile("" ::: "memory");
}
int main(void) { inner(0); }
EOF
cat >d.d <<'EOF'
import std.stdio, std.conv;
class Mine : Exception { int n; this(int n) { super("mine"); this.n = n; } }
int leaf(int x)
{
	if (x % 5 == 4) throw new Mine(x);
	if (x % 7 == 6) throw new Exception("plain " ~ to!string(x));
	return x;
}
int middle(int x)
{
	scope (exit) writeln("exit ", x);
	scope (failure) writeln("failure ", x);
	try return leaf(x);
	catch (Mine e) return to!int("nr" ~ to!string(e.n)); // throws another
	finally writeln("finally ", x);
}
int main()
{
	foreach (i; 0 .. 20) {
		try writeln(middle(i));
		catch (ConvException e) writeln("conversion: ", e.msg);
		catch (Exception e) writeln(e.msg);
	}
	return 3;
}
EOF
cat >a.adb <<'EOF'
with Ada.Text_IO; use Ada.Text_IO;
with Ada.Command_Line;
with Ada.Exceptions; use Ada.Exceptions;
with Ada.Finalization;
procedure A is
   Mine : exception;
   type Guard is new Ada.Finalization.Limited_Controlled with null record;
   procedure Finalize (G : in out Guard);
   procedure Finalize (G : in out Guard) is
   begin
      Put_Line ("finalized");
   end Finalize;
   function Leaf (X : Integer) return Integer is
      G : Guard;
      T : array (0 .. 9) of Integer := (others => X);
   begin
      if X mod 5 = 4 then
         raise Mine with Integer'Image (X);
      end if;
      return T (X);
   end Leaf;
   function Middle (X : Integer) return Integer is
      G : Guard;
   begin
      return 100 / (Leaf (X) - 3);
   exception
      when E : Mine =>
         Put_Line ("mine" & Exception_Message (E));
         raise Program_Error;
   end Middle;
begin
   for I in 0 .. 12 loop
      begin
         Put_Line (Integer'Image (Middle (I)));
      exception
         when Constraint_Error => Put_Line ("constraint");
         when E : others => Put_Line ("other " & Exception_Name (E));
      end;
   end loop;
   Ada.Command_Line.Set_Exit_Status (3);
end A;
EOF
cat >m.m <<'EOF'
#import <objc/Object.h>
#include <objc/runtime.h>
#include <stdio.h>
@interface Mine : Object { @public int n; }
@end
@implementation Mine
@end
static int leaf(int i)
{
	if (i % 3 == 2) { Mine *m = class_createInstance(objc_getClass("Mine"), 0); m->n = i; @throw m; }
	return i;
}
static int middle(int i)
{
	@try { return leaf(i); } @finally { printf("finally %d\n", i); }
}
int main(void)
{
	for (int i = 0; i < 8; i++)
		@try { printf("%d\n", middle(i)); } @catch (Mine *m) { printf("mine %d\n", m->n); }
	return 3;
}
EOF
cat >r.rs <<'EOF'
use std::panic::{catch_unwind, resume_unwind};
struct Guard(u32);
impl Drop for Guard { fn drop(&mut self) { println!("drop {}", self.0); } }
#[inline(never)]
fn leaf(i: u32) -> u32 { let t = [i; 4]; if i % 3 == 2 { panic!("number {}", i) } t[i as usize % 5] }
#[inline(never)]
fn middle(i: u32) -> u32 { let _g = Guard(i); leaf(i) + 1 }
fn main() {
	std::panic::set_hook(Box::new(|_| ()));
	for i in 0..10 {
		match catch_unwind(|| match catch_unwind(|| middle(i)) { Ok(x) => x, Err(e) => { println!("caught {}", i); resume_unwind(e) } }) {
			Ok(x) => println!("{}", x),
			Err(e) => println!("{:?} {:?}", e.downcast_ref::<String>(), e.downcast_ref::<&str>()),
		}
	}
	std::process::exit(3)
}
EOF

check() { # NAME COMMAND...: builds ./in
	local name=$1 status
	shift
	command -v "$1" >/dev/null || { echo "without $name: $1 is not installed"; return; }
	rm -f in out
	"$@" >log 2>&1 || { echo "without $name: does not build: $(tail -1 log)"; return; }
	./in >want 2>&1
	status=$?
	[ $status = 3 ] || { echo "FAIL $name: the original ends with $status"; bad=1; return; }
	"$OPTVM" rewrite -q in --uniform -o out || { echo "FAIL $name: rewrite"; bad=1; return; }
	./out >got 2>&1
	status=$?
	[ $status = 3 ] && cmp -s want got || { echo "FAIL $name: status $status"; diff want got | head -5; bad=1; }
	n=$((n + 1))
}
for opt in -O0 -O2; do
	check "C $opt, gcc" gcc $opt -fexceptions c.c -o in
	check "C $opt, clang with compiler-rt" clang-14 $opt -fexceptions --rtlib=compiler-rt --unwindlib=libgcc c.c -o in
	check "Ada $opt" gnatmake -q -f $opt a.adb -o in
	check "Ada $opt, static" gnatmake -q -f $opt a.adb -o in -bargs -static -largs -static
	check "Objective-C $opt" gcc $opt -std=gnu11 -fobjc-exceptions m.m -o in -lobjc
	check "D $opt, gdc" gdc $opt d.d -o in
	check "D $opt, ldc" ldc2 $opt d.d -of=in
	check "Rust $opt" rustc -C opt-level=${opt#-O} r.rs -o in
done
echo "$n programs"
exit $bad
