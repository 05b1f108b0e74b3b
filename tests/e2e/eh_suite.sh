#!/usr/bin/env bash
# GCC's own run-time tests of C++ exceptions (g++.dg/eh, g++.old-deja/g++.eh) and of code generation (g++.dg/torture,
# gcc.c-torture/execute): each built, rewritten with every region copied, proved, and run: same status, same output.
# They check themselves by abort(). From Debian's gcc-12-source; what does not build here (other targets, options) is left out.
# $OPTVM_EH: how many of those of exceptions (CI 30), by seed $OPTVM_SEED; `all`: every one with all options below, and the others too.
set -u
: "${OPTVM:?path of the tool}"
source=$(ls /usr/src/gcc-12/gcc-12*.tar.xz 2>/dev/null | head -1)
for tool in g++ python3 xz; do
	command -v $tool >/dev/null || { echo "skipped: $tool is not installed"; exit 77; }
done
[ -n "$source" ] || { echo "skipped: gcc-12-source is not installed"; exit 77; }
work=${OPTVM_WORK:-${OPTVM_BUILD:-/tmp}/work}/gcc-tests
if [ ! -e "$work/done" ]; then
	mkdir -p "$work"
	tar xJf "$source" -C "$work" --strip-components=3 --wildcards '*/gcc/testsuite/g++.dg/eh/*' '*/gcc/testsuite/g++.old-deja/g++.eh/*' \
		'*/gcc/testsuite/g++.dg/torture/*' '*/gcc/testsuite/gcc.c-torture/execute/*' || { echo "skipped: cannot unpack $source"; exit 77; }
	touch "$work/done"
fi
how_many=${OPTVM_EH:-30}
exec python3 - "$OPTVM" "$work" "$how_many" "${OPTVM_SEED:-1}" <<'EOP'
import concurrent.futures, collections, os, random, re, shutil, subprocess, sys, tempfile
optvm, work, how_many, seed = sys.argv[1:]
EH = [['-O0', '-fPIE', '-pie'], ['-O2'], ['-O2', '-static'], ['-Os', '-fno-pie', '-no-pie'], ['-O2', '-std=gnu++98'], ['-O2', '-fuse-ld=lld'],
      ['-O3', '-fno-asynchronous-unwind-tables']]
OTHERS = [['-O2'], ['-O3', '-fno-pie', '-no-pie'], ['-Os', '-fcf-protection']]


def programs(folder, every):
	for top, _, names in os.walk(os.path.join(work, folder)):
		for name in sorted(names):
			path = os.path.join(top, name)
			if not re.search(r'\.[Cc]$', name):
				continue
			with open(path, errors='replace') as f:
				kind = re.search(r'dg-do\s+(\w+)', f.read())
			if kind[1] == 'run' if kind else every:
				yield path


def run(command, folder):
	try:
		p = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
	except subprocess.TimeoutExpired:
		return 'timeout', b''
	return p.returncode, p.stdout


def check(job):
	"""What came of it; what is wrong starts with FAIL."""
	path, options, folder = *job, tempfile.mkdtemp()
	try:
		with open(path, errors='replace') as f:
			said = ' '.join(re.findall(r'dg-(?:additional-)?options\s+"([^"]*)"', f.read())).split()
		build = ['gcc' if path.endswith('.c') else 'g++', '-w', *options, *said, path, '-o', 'run', '-lm', '-pthread']
		if run(build, folder)[0] or not os.path.exists(f'{folder}/run'):
			return 'does not build'
		before = run(['./run'], folder)
		if run(['./run'], folder) != before:
			return 'differs from itself'
		os.rename(f'{folder}/run', f'{folder}/original')
		status, words = run([optvm, 'rewrite', '-q', 'original', '--uniform', '-o', 'run'], folder)
		if status == 3:
			return 'refused'
		if status:
			return f'FAIL rewrite: {words.decode()}'
		status, words = run([optvm, 'verify', 'original', 'run'], folder)
		if status or b'every other byte as written' not in words:
			return f'FAIL verify: {words.decode()}'
		after = run(['./run'], folder)
		return 'same' if after == before else f'FAIL status {before[0]} -> {after[0]}, {before[1][-100:]} -> {after[1][-100:]}'
	finally:
		shutil.rmtree(folder, ignore_errors=True)


jobs = [(path, options) for folder in ('g++.dg/eh', 'g++.old-deja/g++.eh') for path in programs(folder, True) for options in EH]
if how_many == 'all':
	jobs += [(path, options) for folder, every in (('g++.dg/torture', False), ('gcc.c-torture/execute', True))
	         for path in programs(folder, every) for options in OTHERS]
else:
	jobs = random.Random(int(seed)).sample(jobs, int(how_many))
count = collections.Counter()
with concurrent.futures.ThreadPoolExecutor(2) as pool:
	for (path, options), result in zip(jobs, pool.map(check, jobs)):
		count[result.split(' ')[0] if result.startswith('FAIL') else result] += 1
		if result.startswith('FAIL'):
			print(f'{os.path.relpath(path, work)} {" ".join(options)}: {result}', flush=True)
print(', '.join(f'{n} {what}' for what, n in sorted(count.items())))
sys.exit(count['FAIL'] > 0 or not count['same'])
EOP
