"""What maps observations to action chunks."""

from vlmrl.policy.learned import LearnedPolicy as LearnedPolicy
from vlmrl.policy.learned_value import LearnedValue as LearnedValue
from vlmrl.policy.remote import RemotePolicy as RemotePolicy
from vlmrl.policy.rerank import RerankedPolicy as RerankedPolicy
from vlmrl.policy.robomimic import RobomimicPolicy as RobomimicPolicy
from vlmrl.policy.saved import SERVER as SERVER
from vlmrl.policy.saved import SavedPolicy as SavedPolicy
from vlmrl.policy.saved import load_policy as load_policy
from vlmrl.policy.uniform import UniformPolicy as UniformPolicy
