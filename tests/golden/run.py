"""Runs the golden tests (see run.sh). With --rebase writes the new expectation into the .s files."""
import glob, os, re, subprocess, sys, tempfile

here = os.path.dirname(os.path.abspath(__file__))
optvm = os.environ['OPTVM']


def run(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def profile(path, program, lines):
    """The profile text for `label count` pairs."""
    symbols = {l.split()[2]: int(l.split()[0], 16) for l in run('nm', program).stdout.splitlines()}
    build_id = re.search(r'Build ID: (\w+)', run('readelf', '-n', program).stdout).group(1)
    samples = sorted((symbols[label], int(count)) for label, count in (l.split() for l in lines))
    text = ['optvm-profile 1', 'event test', 'source import', 'frequency 0', 'samples %d' % sum(c for _, c in samples),
            'lost 0', 'unmapped 0', 'processes 1', 'module %s /test' % build_id]
    text += ['s %x %d' % sample for sample in samples]
    with open(path, 'w') as out:
        out.write('\n'.join(text + ['end %d' % len(text)]) + '\n')


def one(source, folder):
    """The dump of one scenario, and what is expected."""
    text = open(source).read()
    field = lambda name: re.findall(r'^# %s: ?(.*)$' % name, text, re.M)
    program, prof = os.path.join(folder, 't'), os.path.join(folder, 'p')
    # labels stay in the symbol table (-L), so that a profile can name them
    built = run('gcc', '-nostdlib', '-static', '-Wa,-L,-mx86-used-note=yes', '-Wl,--build-id=sha1', '-Wl,-z,noseparate-code', source, '-o', program)
    if built.returncode:
        return built.stdout, field('OUT')
    if field('PROF'):
        profile(prof, program, field('PROF'))
    words = field('RUN')[0].replace('%t', program).replace('%p', prof).split()
    return run(optvm, *words).stdout.replace(program, '%t'), field('OUT')


def main():
    rebase, bad = '--rebase' in sys.argv, 0
    sources = sorted(glob.glob(os.path.join(here, '*', '*.s')))
    for source in sources:
        with tempfile.TemporaryDirectory() as folder:
            got, want = one(source, folder)
        got = got.rstrip('\n').split('\n')
        name = os.path.relpath(source, here)
        if rebase:
            body = re.sub(r'^# OUT:.*\n', '', open(source).read(), flags=re.M)
            head, _, rest = body.partition('\n\n')
            with open(source, 'w') as out:
                out.write(head + ''.join('\n# OUT: ' + l for l in got).replace('OUT: \n', 'OUT:\n') + '\n\n' + rest)
        elif [l.rstrip() for l in got] != [l.rstrip() for l in want]:
            bad += 1
            print('FAIL', name)
            print('\n'.join('  got  ' + l for l in got))
        else:
            print('ok', name)
    print('%d passed, %d failed' % (len(sources) - bad, bad))
    sys.exit(bad > 0 or not sources)


main()
