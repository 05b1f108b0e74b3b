"""Run the test suites of real programs with the original and with optimized copies; every test that passes with the original only counts.

  suites.py [--nightly] [--ways a,b] [--jobs N] [--tests GLOB] FOLDER NAME...

FOLDER/NAME is what `scripts/suites` prepared (see there for the ways). A suite is a class below: the files it replaces, its tests, how one
is started, and how its output is read: as a dictionary from a case's name to `ok` or something else. A test here is a file of the suite;
the cases in it are what is counted and compared.
"""
import argparse, collections, concurrent.futures, fnmatch, glob, json, os, re, shutil, subprocess, sys, threading, time
import xml.etree.ElementTree

OPTVM = os.environ['OPTVM']
Done = collections.namedtuple('Done', 'status output')

def run(words, seconds, cwd=None, env=None):
    """Its whole process group ends when the time is over."""
    p = subprocess.Popen(words, cwd=cwd, env={**os.environ, 'LC_ALL': 'C.UTF-8', **(env or {})}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output = p.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, 9)
        return Done('timeout', p.communicate()[0].decode(errors='replace'))
    return Done(p.returncode, output.decode(errors='replace'))

def tap(output):
    """Cases of the Test Anything Protocol, by number: descriptions may contain addresses and names of temporary files."""
    cases, section = {}, 0
    for no, n, rest in re.findall(r'^[ \t]*(not )?ok\b[ \t]*(\d*)(.*)$', output, re.M):
        n = n or str(len(cases) + 1)
        while f'{section}.{n}' in cases:
            section += 1
        cases[f'{section}.{n}'] = 'todo' if re.search(r'#\s*todo', rest, re.I) else 'fail' if no else 'ok'
    return cases

class Suite:
    is_long = True  # do processes live long enough for `run`?
    at_once = 64  # tests that may run in one place
    wrapped = None  # (file, words): tests start it by themselves; a script takes its place if it is to be watched. With these words it ends soon
    env = {}

    def __init__(self, folder):
        self.folder = folder

    def lay_out(self, place):
        """Make what tests need in a new folder, but for the files to be replaced."""

    def cases(self, test, done, place):
        return tap(done.output)

class Python(Suite):
    """CPython's regression tests. Each file is a process; what differs between users, networks and displays is no evidence by itself."""
    files = {'/usr/bin/python3.11': 'bin/python3.11'}
    few = 'test_grammar test_generators test_struct test_dict test_float test_set test_itertools test_json test_dataclasses'.split()
    # of no use here: minutes of sleeping, debuggers, or children that are not replaced
    out = 'test_gdb test_idle test_tk* test_ttk* test_asyncio test_concurrent_futures test_multiprocessing* test_test_*'.split()

    def tests(self, is_nightly):
        if not is_nightly:
            return self.few
        top = '/usr/lib/python3.11/test'
        names = sorted(re.sub(r'\.py$', '', n) for n in os.listdir(top) if n.startswith('test_') and (n.endswith('.py') or os.path.isdir(f'{top}/{n}')))
        return self.few + [n for n in names if n not in self.few and not any(fnmatch.fnmatch(n, p) for p in self.out)]

    def command(self, test, place, program, wrap):
        return wrap + [program['bin/python3.11'], '-E', '-m', 'test', '--tempdir', f'{place}/tmp', '--junit-xml', f'{place}/{test}.xml', '-u', 'none', test], place

    def lay_out(self, place):
        os.makedirs(f'{place}/tmp')

    def cases(self, test, done, place):
        cases, report = {'all': 'ok' if done.status == 0 else f'status {done.status}'}, f'{place}/{test}.xml'
        if not os.path.exists(report):
            return cases
        try:
            for case in xml.etree.ElementTree.parse(report).iter('testcase'):
                bad = case.find('failure') is not None or case.find('error') is not None
                skipped = case.find('skipped') is not None or case.get('result') == 'skipped'
                cases[case.get('name')] = 'fail' if bad else 'skip' if skipped else 'ok'
        except xml.etree.ElementTree.ParseError:
            pass  # control characters in a message; the status remains
        os.remove(report)
        return cases

class Perl(Suite):
    files = {'/usr/bin/perl': 't/perl'}
    few = 're/regexp op/pack op/sprintf op/sort op/hash op/closure op/split re/subst op/lc'.split()

    def tests(self, is_nightly):
        if not is_nightly:
            return self.few
        here = [os.path.relpath(p, f'{self.folder}/t')[:-2] for d in 'base cmd comp io re opbasic op uni mro lib class'.split()
                for p in glob.glob(f'{self.folder}/t/{d}/*.t')]
        return self.few + [t for t in sorted(here) if t not in self.few]

    def lay_out(self, place):
        shutil.copytree(f'{self.folder}/t', f'{place}/t', symlinks=True)
        os.symlink(f'{self.folder}/lib', f'{place}/lib')

    def command(self, test, place, program, wrap):
        with open(f'{self.folder}/t/{test}.t', errors='replace') as f:
            switches = re.findall(r'(?<=\s)-\S+', f.readline())
        return wrap + [program['t/perl'], *switches, test + '.t'], f'{place}/t'

    env = {'PERL_CORE': '1', 'PERL_DESTRUCT_LEVEL': '2'}

class Sqlite(Suite):
    few = 'select1 select3 where join insert update func expr index trigger1'.split()
    # they take many minutes, or run other programs
    out = '*fault* *malloc* *ioerr* all quick full veryquick permutations soak *crash* speed* *fuzz* bigsort bigfile* memsubsys* thread* sort4 walslow wal_*'.split()

    def __init__(self, folder):
        super().__init__(folder)
        self.files = {f'{folder}/testfixture': 'testfixture'}

    def tests(self, is_nightly):
        here = sorted(os.path.basename(p)[:-5] for p in glob.glob(f'{self.folder}/src/test/*.test'))
        return self.few + [t for t in here if t not in self.few and not any(fnmatch.fnmatch(t, p) for p in self.out)] if is_nightly else self.few

    def command(self, test, place, program, wrap):
        os.makedirs(f'{place}/{test}', exist_ok=True)
        return wrap + [program['testfixture'], f'{self.folder}/src/test/{test}.test'], f'{place}/{test}'

    def cases(self, test, done, place):
        shutil.rmtree(f'{place}/{test}', ignore_errors=True)
        return {'all': 'ok' if done.status == 0 else f'status {done.status}',
                **{name: 'ok' if rest == ' Ok' else 'fail' for name, rest in re.findall(r'^(\S+)\.\.\.(.*)$', done.output, re.M)}}

class Git(Suite):
    """Its scripts find the program, and the program itself, in a copy of git's folder of commands."""
    is_long = False
    files = {'/usr/bin/git': 'core/git'}
    wrapped = 'core/git', ['version']
    few = 't0000-basic t1300-config t3200-branch t4013-diff-various'.split()
    out = 't9* t?*-svn* t5[56]*-http* t0021* t7?*-perl* t0202* t5*protocol* t7527* *daemon*'.split()

    def tests(self, is_nightly):
        here = sorted(os.path.basename(p)[:-3] for p in glob.glob(f'{self.folder}/src/t/t[0-9]*.sh'))
        return self.few + [t for t in here if t not in self.few and not any(fnmatch.fnmatch(t, p) for p in self.out)] if is_nightly else self.few

    def lay_out(self, place):
        os.makedirs(f'{place}/core')
        there = '/usr/lib/git-core'  # git is there, too
        for name in set(os.listdir(there)) - {'git'}:
            same = any(os.path.samefile(f'{there}/{name}', git) for git in (f'{there}/git', '/usr/bin/git'))
            os.symlink('git' if same else f'{there}/{name}', f'{place}/core/{name}')

    def command(self, test, place, program, wrap):
        where = f'{place}/trash/{test}'
        os.makedirs(where, exist_ok=True)
        words = ['env', f'GIT_TEST_INSTALLED={place}/core', f'GIT_EXEC_PATH={place}/core', f'TEST_OUTPUT_DIRECTORY={where}', 'sh', f'./{test}.sh', '--root=' + where]
        return wrap + words, f'{self.folder}/src/t'

    def cases(self, test, done, place):
        shutil.rmtree(f'{place}/trash/{test}', ignore_errors=True)
        return tap(done.output)

class Lua(Suite):
    """LPeg's one test program, which asserts some thousand times and stops at the first that fails."""
    files = {'/usr/bin/lua5.4': 'lua', '/usr/lib/x86_64-linux-gnu/lua/5.4/lpeg.so': 'lpeg.so'}
    env = {'LUA_CPATH': './?.so'}

    def tests(self, is_nightly):
        return ['test.lua']

    def lay_out(self, place):
        for name in 'test.lua', 're.lua':
            shutil.copy(f'{self.folder}/{name}', place)

    def command(self, test, place, program, wrap):
        return wrap + [program['lua'], test], place

    def cases(self, test, done, place):
        return {'status': 'ok' if done.status == 0 else f'status {done.status}'}

class Zstd(Suite):
    is_long = False
    at_once = 1  # they share a folder of links
    files = {'/usr/bin/zstd': 'programs/zstd'}
    wrapped = 'programs/zstd', ['--version']
    few = 'compression/basic.sh compression/levels.sh compression/stream-size.sh decompression/golden.sh basic/memlimit.sh'.split()

    def tests(self, is_nightly):
        top = f'{self.folder}/tests/cli-tests'
        here = sorted(os.path.relpath(p, top) for p in glob.glob(f'{top}/*/*.sh'))
        return [t for t in here if '/setup' not in t and '/teardown' not in t and (is_nightly or t in self.few)]

    def lay_out(self, place):
        shutil.copytree(f'{self.folder}/tests', f'{place}/tests', symlinks=True)
        shutil.copytree(f'{self.folder}/programs', f'{place}/programs', symlinks=True)

    def command(self, test, place, program, wrap):
        return wrap + ['python3', './run.py', '--verbose', '--zstd', f'{place}/programs/zstd', test], f'{place}/tests/cli-tests'

    def cases(self, test, done, place):
        return {'status': 'ok' if done.status == 0 else f'status {done.status}',
                **{name: 'ok' if result == 'PASS' else 'fail' for result, name in re.findall(r'^(PASS|FAIL): (.*)$', done.output, re.M)}}

class Xz(Suite):
    """Its test programs with the library replaced, and its good and bad files through the program: every line is a case."""
    is_long = False
    files = {os.path.realpath('/lib/x86_64-linux-gnu/liblzma.so.5'): 'lib/liblzma.so.5', '/usr/bin/xz': 'bin/xz'}
    wrapped = 'bin/xz', ['--version']

    def tests(self, is_nightly):
        programs = sorted(os.listdir(f'{self.folder}/programs'))
        return ['files'] + [p for p in programs if p.startswith('test_')] + (['compress'] if is_nightly else [])

    def command(self, test, place, program, wrap):
        words = [f'{self.folder}/programs/{test}']
        files = f'{self.folder}/tests/files'
        if test == 'files':
            words = ['sh', '-c', f'cd {files} && for f in good* bad* unsupported*; do s=$({place}/bin/xz -dc "$f" 2>/dev/null | md5sum; {place}/bin/xz -t "$f" '
                     '>/dev/null 2>&1; echo $?); echo $f $s; done']
        elif test == 'compress':
            words = ['sh', '-c', f'for level in 0 1 2 3 4 5 6 7 8 9 0e 3e 6e 9e; do for f in {files}/../../programs/* /usr/bin/git /usr/share/dict/* {files}/../*.c; do '
                     f'[ -f "$f" ] && echo $level $f $(head -c 3000000 "$f" | {place}/bin/xz -$level -T1 -c | md5sum) $({place}/bin/xz -$level -c "$f" | {place}/bin/xz -dc | cmp - "$f" && echo same); done; done']
        return ['env', f'LD_LIBRARY_PATH={place}/lib', *wrap, *words], place

    def cases(self, test, done, place):
        lines = re.findall(r'^(?:PASS: .*|.*[0-9a-f]{32}.*)$', done.output, re.M)
        return {'all': 'ok' if done.status == 0 else f'status {done.status}', **{line: 'ok' for line in lines}}

SUITES = {'python': Python, 'perl': Perl, 'sqlite': Sqlite, 'git': Git, 'lua': Lua, 'zstd': Zstd, 'xz': Xz}

class Place:
    """A folder in which the suite finds one kind of program, and what is put before its commands."""

    def __init__(self, suite, top, way, make, profile=None):
        self.suite, self.way, self.top = suite, way, f'{top}/{way}'
        self.n_optimized, self.n_reports, self.n_rewritten, self.lock = 0, 0, 0, threading.Lock()
        os.makedirs(self.top)
        suite.lay_out(self.top)
        self.program = {}
        for original, where in suite.files.items():
            path = f'{self.top}/{where}'
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if os.path.islink(path):  # never write to what it leads to
                os.unlink(path)
            self.n_rewritten += make(original, path)
            self.program[where] = path
        if way == 'counted':
            os.makedirs(f'{self.top}/counts')
            self.counted_profile(profile)
            if suite.wrapped:
                self.replace(self.program[suite.wrapped[0]])

    def path(self, where):
        """Of the file that is executed, which a script may stand for."""
        is_script = self.way == 'counted' and self.suite.wrapped and where == self.suite.wrapped[0]
        return f'{self.top}/real/{os.path.basename(where)}' if is_script else f'{self.top}/{where}'

    def counted_profile(self, profile):
        """What @profile knows of the suite's own files, under the names that they have here: `record --prior` goes by them."""
        with open(profile) as f:
            head, *modules, _ = re.split(r'^(?=module |end )', f.read(), flags=re.M)
        own = {w: m for m in modules for w in self.program if m.split('\n', 1)[0].endswith('/' + w)}
        text = head + ''.join(re.sub(r'^(module \S+ ).*', lambda n: n[1] + self.path(w), m, count=1) for w, m in own.items())
        with open(f'{self.top}/prior.prof', 'w') as f:
            f.write(text + 'end %d\n' % text.count('\n'))

    def replace(self, path):
        """A script that runs what was at @path as it is to be run; what optvm says goes elsewhere."""
        real = f'{self.top}/real'
        os.makedirs(real)
        os.rename(path, f'{real}/{os.path.basename(path)}')
        words = self.counted('$$') + ['--log-file', f'{self.top}/log', '--']
        with open(path, 'w') as f:  # links to it have other names, which mean something to some programs
            f.write(f'#!/bin/sh\nreal={real}/${{0##*/}}\n[ -e "$real" ] || ln -s {os.path.basename(path)} "$real" 2>/dev/null\n'
                    f'exec {" ".join(words)} "$real" "$@"\n')
        os.chmod(path, 0o755)

    def counted(self, name):
        return [OPTVM, 'record', '-q', '-f', '-o', f'{self.top}/counts/{name}', '--counters=on', '--prior', f'{self.top}/prior.prof']

    def n_counted(self):
        """Processes that were, of those that left a profile."""
        paths = glob.glob(f'{self.top}/counts/*')
        n = 0
        for path in paths:
            with open(path) as f:
                n += '\ne ' in f.read()
        return n, len(paths)

    def wrap(self, test, profile):
        if self.way == 'record':
            return [OPTVM, 'record', '-q', '-f', '-o', profile, '--']
        if self.way == 'counted':
            return self.counted(test.replace('/', '-')) + ['--']
        if self.way == 'run':
            return [OPTVM, 'run', '-q', '--always', '--sample-ms', '100', '--min-samples', '1', '--report', self.report(test), '--']
        return []

    def report(self, test):
        return f'{self.top}/report-{test.replace("/", "-")}.json'

    def timed(self, test, seconds):
        started = time.time()
        return self.test(test, None, seconds) + (time.time() - started,)

    def test(self, test, profile, seconds):
        words, cwd = self.suite.command(test, self.top, self.program, self.wrap(test, profile) if self.way == 'record' or not self.suite.wrapped else [])
        done = run(words, seconds, cwd, self.suite.env)
        cases = self.suite.cases(test, done, self.top)
        if done.status == 'timeout':
            cases = {**cases, 'end': 'timeout'}
        if self.way == 'run' and os.path.exists(self.report(test)):
            with self.lock, open(self.report(test)) as f:
                self.n_reports += 1
                self.n_optimized += '"optimized": true' in f.read()
        return cases, done

def original(path, to):
    shutil.copyfile(os.path.realpath(path), to)
    os.chmod(to, 0o755)
    return 0

def rewritten(words):
    def make(path, to):
        done = run([OPTVM, 'rewrite', '-q', os.path.realpath(path), *words, '-f', '-o', to], 600)
        if done.status == 3 and '--uniform' not in words:  # nothing hot in this one of the files
            return original(path, to)
        if done.status:
            raise SystemExit(f'FAIL {path}: optvm rewrite {" ".join(words)}: {done.output}')
        return 1
    return make

class Comparison:
    def __init__(self, name, folder, args):
        self.name, self.args, self.suite = name, args, SUITES[name](f'{folder}/{name}')
        self.top = f'{folder}/run-{name}'
        shutil.rmtree(self.top, ignore_errors=True)
        self.base, self.passed = Place(self.suite, self.top, 'original', original), {}
        self.took = {}  # seconds of each test with the original
        self.seconds = 60 if args.nightly else 20

    def each(self, work, tests):
        with concurrent.futures.ThreadPoolExecutor(min(self.args.jobs, self.suite.at_once)) as pool:
            return list(zip(tests, pool.map(work, tests)))

    def first(self):
        """The original; what passes is asked of the others."""
        tests = [t for t in self.suite.tests(self.args.nightly) if fnmatch.fnmatch(t, self.args.tests)]
        for test, (cases, done, self.took[test]) in self.each(lambda t: self.base.timed(t, self.seconds), tests):
            good = {case for case, result in cases.items() if result == 'ok'}
            if good and done.status != 'timeout':
                self.passed[test] = good
        n = sum(map(len, self.passed.values()))
        print(f'{self.name}: original: {n} cases pass, in {len(self.passed)} of {len(tests)} tests', flush=True)
        return n

    def profile(self):
        profiles = []
        place = Place(self.suite, self.top, 'record', original)
        for i, test in enumerate(list(self.passed)[:6]):
            place.test(test, f'{self.top}/{i}.prof', 600)
            if os.path.exists(f'{self.top}/{i}.prof'):
                profiles.append(f'{self.top}/{i}.prof')
        if self.suite.wrapped:  # what every process does: so that each has something to count, else `record` fails
            where, words = self.suite.wrapped
            profiles.append(f'{self.top}/start.prof')
            run([OPTVM, 'record', '-q', '-f', '-o', profiles[-1], '--counters=on', '--uniform', '--', place.program[where], *words], 60)
        shutil.rmtree(place.top)
        merged = f'{self.top}/all.prof'
        done = run([OPTVM, 'merge', '-f', '-o', merged, *profiles], 60)
        if done.status:
            raise SystemExit(f'FAIL {self.name}: optvm merge: {done.output}')
        return merged

    def way(self, way, profile):
        make = {'rewrite': rewritten(['-p', profile or '']), 'uniform': rewritten(['--uniform'])}.get(way, original)
        place = Place(self.suite, self.top, way, make, profile)
        started, bad, unsteady, n = time.time(), [], [], 0
        limit = 10 * self.seconds
        # each of the many processes of a test costs some tenths of a second when it is counted
        tests = [t for t in self.passed if way != 'counted' or not self.suite.wrapped or self.took[t] < 3]
        for test, (cases, done) in self.each(lambda t: place.test(t, profile, limit), tests):
            n += len(self.passed[test])
            lost = {c for c in self.passed[test] if cases.get(c) != 'ok'}
            if not lost:
                continue
            self.keep(way, test, done)
            again, done = place.test(test, profile, limit)
            base, _ = self.base.test(test, None, limit)
            still = {c for c in lost if again.get(c) != 'ok'}
            new = {c for c in still if base.get(c) == 'ok'}
            bad += [(test, c, again.get(c, 'missing'), done.status) for c in sorted(new)]
            unsteady += [(test, c) for c in sorted(lost - new)]
        more = f', optimized in {place.n_optimized} of {place.n_reports} processes' if way == 'run' else ''
        if way == 'counted':
            n_counted, n_known = place.n_counted()
            more = f', counted in {n_counted} of {n_known} processes'
            if not n_counted:
                bad.append(('no process', 'counted', '', ''))
        if make != original:
            more = f', {place.n_rewritten} of {len(self.suite.files)} files rewritten'
            if not place.n_rewritten:
                bad.append(('no file', 'rewritten', '', ''))
        for test, case, result, status in bad:
            print(f'FAIL {self.name} {way}: {test}: {case}: {result} (test ended with {status})')
        for test, case in unsteady:
            print(f'unsteady {self.name} {way}: {test}: {case}')
        print(f'{self.name}: {way}: {n} cases in {len(tests)} tests, {len(bad)} new failures, {len(unsteady)} unsteady{more} ({time.time() - started:.0f} s)', flush=True)
        if not bad:
            shutil.rmtree(place.top)
        return len(bad)

    def keep(self, way, test, done):
        with open(f'{self.top}/{way}-{test.replace("/", "-")}.out', 'w') as f:
            f.write(f'status {done.status}\n{done.output}')

def compare(name, folder, args):
    c = Comparison(name, folder, args)
    if not c.first():
        print(f'FAIL {name}: nothing passes with the original')
        return 1
    ways = args.ways or 'rewrite,uniform,run,counted' if args.nightly or not c.suite.wrapped else 'rewrite,uniform'
    ways = [w for w in ways.split(',') if w != 'run' or c.suite.is_long]
    profile = c.profile() if {'rewrite', 'counted'} & set(ways) else None
    return sum(c.way(w, profile) for w in ways)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--nightly', action='store_true')
    parser.add_argument('--ways')
    parser.add_argument('--jobs', type=int, default=int(os.environ.get('OPTVM_JOBS', 2)))
    parser.add_argument('--tests', default='*', metavar='GLOB')
    parser.add_argument('folder')
    parser.add_argument('names', nargs='+')
    args = parser.parse_args()
    bad = [compare(name, args.folder, args) for name in args.names]
    sys.exit(1 if sum(bad) else 0)

main()
